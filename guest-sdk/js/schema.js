// Schemas: JSON Schemas as they are, and those of libraries that follow Standard Schema
// (https://standardschema.dev), such as zod, valibot and arktype.

import { Failure } from "./failure.js";

/** The schema as JSON Schema, for the host. */
export function jsonSchema(schema) {
  const standard = schema?.["~standard"];
  if (!standard) return schema;
  const convert = standard.jsonSchema?.input;
  if (typeof convert !== "function") {
    const from = standard.vendor ? `a schema of ${standard.vendor}` : "this schema";
    throw new Failure("rejected", `${from} does not tell its JSON Schema: take a later version (zod 4.2), or a JSON Schema`);
  }
  const { $schema: _, ...converted } = convert({ target: "draft-2020-12" });
  return converted;
}

function validate(schema, value) {
  const result = schema["~standard"].validate(value);
  if (typeof result?.then === "function") throw new Failure("rejected", "a schema has to validate at once");
  return result;
}

function excerpt(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  const characters = [...text];
  return characters.length > 200 ? `${characters.slice(0, 200).join("")}...` : text;
}

function parsed(text) {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { problem: error.message };
  }
}

function issue({ path = [], message }) {
  const place = path.map((part) => (typeof part === "object" ? part.key : part)).join(".");
  return place ? `${place}: ${message}` : message;
}

function misfit(what, problem, value) {
  return new Failure("invalid-output", `the ${what} does not fit: ${problem}; it was: ${excerpt(value)}`);
}

/** A value that has to fit a schema, as the schema gives it. `what` is for people. */
export function fitting(schema, value, what) {
  if (!schema?.["~standard"]) return value;
  const result = validate(schema, value);
  if (!result.issues) return result.value;
  throw misfit(what, result.issues.map(issue).join("; "), value);
}

/** The data of an answer: if the agent answered with text, the text is read as JSON. */
export function data(output, schema) {
  if (schema === undefined) {
    if (typeof output !== "string") return output;
    const { value, problem } = parsed(output);
    if (problem === undefined) return value;
    throw misfit("answer", problem, output);
  }
  // The host has read the answer to a call with a schema as that wants it: text in it is text.
  if (!schema?.["~standard"]) return output;
  const readings = [{ value: output }];
  if (typeof output === "string") readings.push(parsed(output));
  for (const { value, problem } of readings) {
    const result = problem === undefined ? validate(schema, value) : undefined;
    if (result && !result.issues) return result.value;
  }
  return fitting(schema, output, "answer");
}

/** The text of an answer: a string as it is, other JSON as it is written. */
export function text(output) {
  return typeof output === "string" ? output : JSON.stringify(output);
}
