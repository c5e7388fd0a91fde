// The example `research` in TypeScript: a report by several agents. An outline, its sections
// written side by side, a review of at most three rounds, and the approval of a person.

import { Failure, agent, all, log, phase, publish, signal, workflow } from "wfhost";

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

export const run = workflow((input: Input) => {
  const { topic, sections: count = 3, approval_timeout_s = 7 * 24 * 3600 } = input;

  phase("outline");
  const outline = agent(`outline ${topic} in ${count} sections`, { label: "outline" });

  phase("sections");
  let sections = write(topic, outline, count);

  let rounds = 0;
  while (rounds < ROUNDS) {
    rounds += 1;
    phase(`review ${rounds}`);
    const draft = sections.join("\n\n");
    const review = agent(`review round ${rounds} of ${topic}:\n${draft}`, { label: `review ${rounds}` });
    if (/^\s*(ok|approved)/i.test(review)) {
      log.info(`accepted in round ${rounds}`);
      break;
    }
    if (rounds < ROUNDS) sections = write(topic, review, count);
  }
  publish("draft", sections);

  phase("approval");
  return { topic, outline, sections, rounds, approval: approval(approval_timeout_s * 1000) };
});

/** Has all sections written side by side, following an outline or a review. */
function write(topic: string, guidance: string, count: number): string[] {
  const numbers = Array.from({ length: count }, (_, index) => index + 1);
  return all(
    numbers.map((number) =>
      agent.start(`write section ${number} of ${topic}:\n${guidance}`, { label: `section ${number}` }),
    ),
  );
}

/** Null if nobody answers in time. */
function approval(timeout: number): Approval | null {
  try {
    const { ok, note = null } = signal<Approval>("approve", { timeout });
    return { ok, note };
  } catch (error) {
    if (error instanceof Failure && error.kind === "timed-out") return null;
    throw error;
  }
}
