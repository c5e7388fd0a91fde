// The example `research` in TypeScript: a report by several agents. An outline, its sections
// written side by side, a review of at most three rounds, and the approval of a person.

import { Failure, agent, log, phase, publish, signal, workflow } from "wfhost";

interface Input {
  topic: string;
  sections?: number;
  approval_timeout_s?: number;
}

interface Approval {
  ok: boolean;
  note: string | null;
}

const ROUNDS = 3;

export const run = workflow(async (input: Input) => {
  const { topic, sections: count = 3, approval_timeout_s = 7 * 24 * 3600 } = input;

  phase("outline");
  const outline = await agent(`outline ${topic} in ${count} sections`, { label: "outline" });

  phase("sections");
  let sections = await write(topic, outline, count);

  let rounds = 0;
  while (rounds < ROUNDS) {
    rounds += 1;
    phase(`review ${rounds}`);
    const draft = sections.join("\n\n");
    const review = await agent(`review round ${rounds} of ${topic}:\n${draft}`, { label: `review ${rounds}` });
    if (/^\s*(ok|approved)/i.test(review)) {
      log.info(`accepted in round ${rounds}`);
      break;
    }
    if (rounds < ROUNDS) sections = await write(topic, review, count);
  }
  publish("draft", sections);

  phase("approval");
  return { topic, outline, sections, rounds, approval: await approval(approval_timeout_s * 1000) };
});

/** Has all sections written side by side, following an outline or a review. */
function write(topic: string, guidance: string, count: number): Promise<string[]> {
  const numbers = Array.from({ length: count }, (_, index) => index + 1);
  const ask = (number: number) =>
    agent(`write section ${number} of ${topic}:\n${guidance}`, { label: `section ${number}` });
  return Promise.all(numbers.map(ask));
}

/** Null if nobody answers in time. */
async function approval(timeout: number): Promise<Approval | null> {
  try {
    const { ok, note = null } = await signal<Approval>("approve", { timeout });
    return { ok, note };
  } catch (error) {
    if (Failure.is(error, "timed-out")) return null;
    throw error;
  }
}
