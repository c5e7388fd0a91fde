// The example `research` in Go: a report by several agents. An outline, its sections written side by
// side, a review of at most three rounds, and the approval of a person.
package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	wfhost "github.com/wfhost/wfhost/guest-sdk/go"
)

const rounds = 3

type input struct {
	Topic            string `json:"topic"`
	Sections         *int   `json:"sections"`
	ApprovalTimeoutS *int   `json:"approval_timeout_s"`
}

// The signal `approve`.
type approval struct {
	OK   bool    `json:"ok"`
	Note *string `json:"note"`
}

type report struct {
	Topic    string   `json:"topic"`
	Outline  string   `json:"outline"`
	Sections []string `json:"sections"`
	Rounds   int      `json:"rounds"`
	// Nil if nobody answered in time.
	Approval *approval `json:"approval"`
}

func init() { wfhost.Workflow(research) }
func main() {}

func research(ctx context.Context, input input) (*report, error) {
	count := or(input.Sections, 3)
	result := &report{Topic: input.Topic}

	wfhost.Phase("outline")
	prompt := fmt.Sprintf("outline %s in %d sections", input.Topic, count)
	outline, err := wfhost.Agent{Prompt: prompt, Label: "outline"}.Text(ctx)
	if err != nil {
		return nil, err
	}
	result.Outline = outline

	wfhost.Phase("sections")
	if result.Sections, err = write(ctx, input.Topic, outline, count); err != nil {
		return nil, err
	}
	for result.Rounds < rounds {
		result.Rounds++
		name := fmt.Sprintf("review %d", result.Rounds)
		wfhost.Phase(name)
		draft := strings.Join(result.Sections, "\n\n")
		prompt := fmt.Sprintf("review round %d of %s:\n%s", result.Rounds, input.Topic, draft)
		review, err := wfhost.Agent{Prompt: prompt, Label: name}.Text(ctx)
		if err != nil {
			return nil, err
		}
		verdict := strings.ToLower(strings.TrimSpace(review))
		if strings.HasPrefix(verdict, "ok") || strings.HasPrefix(verdict, "approved") {
			wfhost.Infof("accepted in round %d", result.Rounds)
			break
		}
		if result.Rounds < rounds {
			if result.Sections, err = write(ctx, input.Topic, review, count); err != nil {
				return nil, err
			}
		}
	}
	if err := wfhost.Publish("draft", result.Sections); err != nil {
		return nil, err
	}

	wfhost.Phase("approval")
	timeout := time.Duration(or(input.ApprovalTimeoutS, 7*24*3600)) * time.Second
	answer, err := wfhost.Signal[approval](ctx, "approve", timeout)
	switch {
	case err == nil:
		result.Approval = &answer
	case !wfhost.TimedOut.Is(err):
		return nil, err
	}
	return result, nil
}

// write has all sections written side by side, following an outline or a review.
func write(ctx context.Context, topic, guidance string, count int) ([]string, error) {
	sections := make([]*wfhost.Step[string], 0, count)
	for number := 1; number <= count; number++ {
		prompt := fmt.Sprintf("write section %d of %s:\n%s", number, topic, guidance)
		sections = append(sections, wfhost.Agent{Prompt: prompt, Label: fmt.Sprintf("section %d", number)}.Start())
	}
	return wfhost.All(ctx, sections)
}

func or(value *int, otherwise int) int {
	if value == nil {
		return otherwise
	}
	return *value
}
