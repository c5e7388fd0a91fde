// A plugin: an agent that answers calls from workflows.

import { Failure, http, line, plugin, utf8 } from "wfhost/plugin";

/** The options of a call. */
interface Options {
  url?: string;
}

export const agent = plugin((call) => {
  const { url = "https://example.com/" }: Options = call.options ?? {};
  line(`reads ${url}`);
  const page = http("GET", url);
  if (page.status !== 200) throw new Failure("unavailable", `the service answered ${page.status}`);
  return { asked: call.prompt, bytes: utf8(page.body).length };
});
