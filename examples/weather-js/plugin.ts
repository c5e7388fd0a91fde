// A plugin in TypeScript that asks a service for the weather: the prompt is a place, the answer what is known of it.
//
// [providers.weather]
// kind = "plugin"
// plugin = "weather-js.wasm"
// http = [{ url = "https://wttr.in/", methods = ["GET"] }]

import { Failure, Reply, cancelled, chunk, heartbeat, http, line, plugin } from "wfhost/plugin";

interface Options {
  /** Another service that speaks the same. */
  url?: string;
}

export const agent = plugin((call) => {
  const { url = "https://wttr.in" }: Options = call.options ?? {};
  const place = encodeURIComponent(call.prompt.trim());
  if (!place) throw new Failure("rejected", "the prompt names no place");
  heartbeat({ asked: place, attempt: call.attempt });
  line(`asks for ${call.prompt.trim()}`);
  const answer = http("GET", `${url}/${place}?format=j1`, { headers: { accept: "application/json" } });
  if (cancelled()) throw new Failure("cancelled", "cancelled");
  if (answer.status !== 200) {
    const kind = answer.status >= 500 || answer.status === 429 ? "unavailable" : "rejected";
    throw new Failure(kind, `the service answered ${answer.status}`);
  }
  const now = JSON.parse(answer.body).current_condition[0];
  const text = `${now.temp_C} °C, ${now.weatherDesc[0].value}`;
  chunk(text);
  return new Reply({ place: call.prompt.trim(), celsius: Number(now.temp_C), text }, { model: "wttr" });
});
