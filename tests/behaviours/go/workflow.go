// The scenarios of tests/guests/behaviours in Go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	wfhost "github.com/wfhost/wfhost/guest-sdk/go"
)

type input struct {
	Scenario string `json:"scenario"`
	N        int    `json:"n"`
}

type review struct {
	Accepted bool     `json:"accepted"`
	Notes    []string `json:"notes"`
}

type object = map[string]any

func init() { wfhost.Workflow(run) }
func main() {}

func kind(err error) string {
	var failure *wfhost.Failure
	if errors.As(err, &failure) {
		return string(failure.Kind)
	}
	return "none"
}

func ask(prompt string) func(ctx context.Context) (string, error) {
	return wfhost.Agent{Prompt: prompt}.Text
}

func pipeline(ctx context.Context, name string) (string, error) {
	draft, err := wfhost.Agent{Prompt: name + "1"}.Text(ctx)
	if err != nil {
		return "", err
	}
	return wfhost.Agent{Prompt: name + "2 " + draft}.Text(ctx)
}

func undo(ctx context.Context, booking string) error {
	_, err := wfhost.Agent{Prompt: "undo " + booking}.Text(ctx)
	return err
}

func run(ctx context.Context, input input) (any, error) {
	switch input.Scenario {
	case "conversation":
		first, err := wfhost.Agent{Prompt: "first", Session: "s1"}.Reply(ctx)
		if err != nil {
			return nil, err
		}
		second, err := wfhost.Agent{Prompt: "second", Session: first.Session}.Reply(ctx)
		if err != nil {
			return nil, err
		}
		usage := first.Usage
		return object{
			"outputs": []string{first.Text(), second.Text()}, "session": second.Session, "provider": first.Provider,
			"usage": []uint64{usage.InputTokens, usage.OutputTokens, usage.CachedTokens, usage.CostMicros},
		}, nil
	case "typed":
		good, err := wfhost.Answer[review](ctx, wfhost.Agent{Prompt: "review"})
		if err != nil {
			return nil, err
		}
		_, bad := wfhost.Answer[review](ctx, wfhost.Agent{Prompt: "words", Once: true})
		return object{"review": good, "bad": kind(bad)}, nil
	case "once":
		_, err := wfhost.Agent{Prompt: "pay", Once: true}.Text(ctx)
		return object{"kind": kind(err)}, nil
	case "request":
		return wfhost.Agent{
			Prompt: "p", Input: object{"a": 1}, Label: "l", Group: "g",
			Retry:   &wfhost.Retry{MaxAttempts: 5, Fatal: []string{"unavailable"}},
			Limits:  &wfhost.Limits{Attempt: time.Minute, Total: 90 * time.Second, Heartbeat: 30 * time.Second},
			Options: object{"t": 0},
		}.Text(ctx)
	case "cache":
		return wfhost.Agent{Prompt: "costly", Cache: &wfhost.Cache{Version: "v1", Age: time.Hour}}.Text(ctx)
	case "together":
		return together(ctx)
	case "race":
		index, value, err := wfhost.Race(ctx,
			func(ctx context.Context) (string, error) { return "", wfhost.Sleep(ctx, time.Minute) },
			ask("b"),
			func(ctx context.Context) (string, error) { return wfhost.Signal[string](ctx, "never") },
		)
		return []any{index, value}, err
	case "quorum":
		votes, err := wfhost.Quorum(ctx, 2, ask("bad"), ask("slow"), ask("fast"))
		if err != nil {
			return nil, err
		}
		_, err = wfhost.Quorum(ctx, 2, ask("bad"), ask("bad too"), ask("fast"))
		var failure *wfhost.Failure
		if !errors.As(err, &failure) {
			return nil, errors.New("two of three fail")
		}
		var pairs [][]any
		for _, vote := range votes {
			pairs = append(pairs, []any{vote.Index, vote.Value})
		}
		return object{"votes": pairs, "message": failure.Message, "details": failure.Details}, nil
	case "map":
		return wfhost.Map(ctx, []int{0, 1, 2, 3, 4}, 2, func(ctx context.Context, item int) (string, error) {
			draft, err := wfhost.Agent{Prompt: fmt.Sprintf("draft %d", item)}.Text(ctx)
			if err != nil {
				return "", err
			}
			return wfhost.Agent{Prompt: "polish " + draft}.Text(ctx)
		})
	case "timeout":
		inner, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		defer cancel()
		_, err := wfhost.Signal[any](inner, "never")
		return object{"kind": kind(err)}, nil
	case "cancel":
		step := wfhost.StartSleep(time.Minute)
		answer, err := wfhost.Agent{Prompt: "meanwhile"}.Text(ctx)
		step.Cancel()
		return answer, err
	case "retry":
		policy := wfhost.Retry{MaxAttempts: 3, Initial: time.Millisecond, Jitter: -1}
		return wfhost.Again(ctx, policy, func(ctx context.Context, attempt uint32) (string, error) {
			return wfhost.Agent{Prompt: fmt.Sprintf("try %d", attempt), Retry: &wfhost.Retry{MaxAttempts: 1}}.Text(ctx)
		})
	case "rounds":
		return wfhost.Rounds(ctx, 2, input, round)
	case "saga":
		return nil, wfhost.Compensate(ctx, func(ctx context.Context, trip *wfhost.Saga) error {
			if _, err := wfhost.Do(ctx, trip, "flight", ask("book flight"), undo); err != nil {
				return err
			}
			if _, err := wfhost.Do(ctx, trip, "hotel", ask("book hotel"), undo); err != nil {
				return err
			}
			trip.Undo("car", func(context.Context) error { return errors.New("there is no car") })
			return &wfhost.Failure{Kind: wfhost.Rejected, Message: "no", Details: json.RawMessage(`{"own":1}`)}
		})
	case "stopped":
		return nil, wfhost.Compensate(ctx, func(ctx context.Context, trip *wfhost.Saga) error {
			if _, err := wfhost.Do(ctx, trip, "flight", ask("book flight"), undo); err != nil {
				return err
			}
			_, err := wfhost.Signal[any](ctx, "go")
			return err
		})
	case "child":
		options := wfhost.ChildOptions{ID: "kid", Labels: map[string]string{"k": "v"}}
		value, err := wfhost.Child[any](ctx, "behaviours", object{"scenario": "echo", "n": 7}, options)
		if err != nil {
			return nil, err
		}
		_, missing := wfhost.Child[any](ctx, "no-such", nil)
		return object{"value": value, "missing": kind(missing)}, nil
	case "echo":
		return object{"n": input.N}, nil
	case "budget":
		before := wfhost.Budget()
		if _, err := (wfhost.Agent{Prompt: "first"}).Text(ctx); err != nil {
			return nil, err
		}
		after := wfhost.Budget()
		left, _ := before.Remaining()
		rest, _ := after.Remaining()
		return object{"before": []uint64{before.Spent, left}, "after": []uint64{after.Spent, rest}}, nil
	case "facts":
		return facts()
	case "ask":
		question := wfhost.Question{Prompt: "which colour?", Choices: []string{"red", "green"}, Details: object{"why": 1}}
		colour, err := wfhost.Ask[string](ctx, question)
		if err != nil {
			return nil, err
		}
		_, refused := wfhost.Ask[any](ctx, wfhost.Question{Prompt: "really?"})
		_, late := wfhost.Ask[any](ctx, wfhost.Question{Prompt: "anybody?"}, time.Millisecond)
		return object{"colour": colour, "refused": kind(refused), "late": kind(late)}, nil
	case "sleep":
		if err := wfhost.Sleep(ctx, 2*time.Millisecond); err != nil {
			return nil, err
		}
		if err := wfhost.SleepUntil(ctx, time.UnixMilli(1)); err != nil {
			return nil, err
		}
		// The longest that Go's durations can say are 292 years.
		return object{"long": kind(wfhost.Sleep(ctx, 1<<63-1))}, nil
	case "fail":
		return nil, &wfhost.Failure{Kind: wfhost.Unavailable, Message: "nobody is there", Details: json.RawMessage(`{"why":[1]}`)}
	case "broken":
		if _, err := (wfhost.Agent{Prompt: "first"}).Text(ctx); err != nil {
			return nil, err
		}
		panic("not like this")
	}
	return nil, &wfhost.Failure{Kind: wfhost.Rejected, Message: "there is no scenario " + input.Scenario}
}

// together uses what Go has itself.
func together(ctx context.Context) (any, error) {
	var group sync.WaitGroup
	results, errs := make([]string, 2), make([]error, 2)
	for index, name := range []string{"a", "b"} {
		group.Go(func() { results[index], errs[index] = pipeline(ctx, name) })
	}
	group.Wait()
	return results, errors.Join(errs...)
}

func round(ctx context.Context, state input) (input, object, bool, error) {
	_, err := wfhost.Agent{Prompt: fmt.Sprintf("round %d", state.N)}.Text(ctx)
	result := object{"rounds": state.N}
	next := state
	next.N++
	return next, result, state.N == 4, err
}

func facts() (any, error) {
	info := wfhost.Info()
	wfhost.Phase("looking")
	err := errors.Join(
		wfhost.Publish("progress", object{"done": 3}),
		wfhost.Post("chapter", object{"title": "one"}),
	)
	wfhost.Log.With(wfhost.Fields{"who": "Ada", "step": 3}).Warnf("careful")
	var parent any
	if info.Parent != "" {
		parent = info.Parent
	}
	return object{
		"run": info.Run, "workflow": info.Workflow, "labels": info.Labels, "attempt": info.Attempt,
		"parent": parent, "patched": wfhost.Patched("x"), "cancelled": wfhost.IsCancelled(),
		"clock": !wfhost.Now().Before(info.Started), "gone": kind(wfhost.Send("no-such-run", "go", 1)),
	}, err
}
