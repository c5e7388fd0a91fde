package wfhost

import (
	"encoding/json"
	"strings"
	"time"

	export_world "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/export_wit_world"
	agent "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_agent"
	child "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_child"
	context "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_context"
	log "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_log"
	signal "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_signal"
	sleep "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_sleep"
	types "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_types"
	_ "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wit_exports"
	"github.com/wfhost/wfhost/guest-sdk/go/internal/wit/runtime"
	wit "github.com/wfhost/wfhost/guest-sdk/go/internal/wit/types"
)

// What the host hands over is its own memory until Release: texts are copied before that. Nothing else
// runs in between, as goroutines change only where one waits.

type wasmStep struct{ *types.Step }

func (step wasmStep) id() uint64 { return step.Id() }
func (step wasmStep) drop()      { step.Drop() }

func (step wasmStep) get() (string, *Failure) {
	result := step.Get()
	defer runtime.Release()
	if result.IsErr() {
		return "", failureFrom(result.Err())
	}
	return strings.Clone(result.Ok()), nil
}

type wasmSet struct{ *types.WaitSet }

func (set wasmSet) add(step hostStep, tag uint64) { set.Add(step.(wasmStep).Step, tag) }
func (set wasmSet) remove(tag uint64)             { set.Remove(tag) }
func (set wasmSet) next() uint64                  { return set.Next() }

func failureFrom(from types.Failure) *Failure {
	failure := &Failure{Kind: kinds[from.Kind], Message: strings.Clone(from.Message), Attempts: from.Attempts}
	if from.Details.IsSome() {
		failure.Details = json.RawMessage(from.Details.Some())
	}
	return failure
}

func failureTo(failure *Failure) types.Failure {
	result := types.Failure{Message: failure.Message, Details: wit.None[string](), Attempts: failure.Attempts}
	for index, kind := range kinds {
		if kind == failure.Kind {
			result.Kind = types.FailureKind(index)
		}
	}
	if failure.Details != nil {
		result.Details = wit.Some(string(failure.Details))
	}
	return result
}

func text(value string) wit.Option[string] {
	if value == "" {
		return wit.None[string]()
	}
	return wit.Some(value)
}

func option[T any](value *T) wit.Option[T] {
	if value == nil {
		return wit.None[T]()
	}
	return wit.Some(*value)
}

func length(value time.Duration) wit.Option[uint64] {
	if value == 0 {
		return wit.None[uint64]()
	}
	return wit.Some(millis(value))
}

func pairs(from [][2]string) []wit.Tuple2[string, string] {
	to := make([]wit.Tuple2[string, string], 0, len(from))
	for _, pair := range from {
		to = append(to, wit.Tuple2[string, string]{F0: pair[0], F1: pair[1]})
	}
	return to
}

func askAgent(from agentRequest) hostStep {
	request := agent.Request{
		Prompt: from.prompt, Providers: from.providers, Input: option(from.input), Schema: option(from.schema),
		Options: option(from.options), Model: text(from.model), Session: text(from.session),
		Workspace: text(from.workspace), Label: text(from.label), Group: text(from.group),
		Retry: wit.None[agent.Retry](), Limits: wit.None[agent.Limits](), Cache: wit.None[agent.Caching](),
	}
	if retry := from.retry; retry != nil {
		request.Retry = wit.Some(agent.Retry{
			MaxAttempts: retry.MaxAttempts, Initial: millis(retry.Initial), Factor: retry.Factor,
			Max: millis(retry.Max), Jitter: retry.Jitter, Fatal: retry.Fatal,
		})
	}
	if limits := from.limits; limits != nil {
		request.Limits = wit.Some(agent.Limits{
			Attempt: length(limits.Attempt), Total: length(limits.Total), Heartbeat: length(limits.Heartbeat),
		})
	}
	if cache := from.cache; cache != nil {
		request.Cache = wit.Some(agent.Caching{Version: cache.Version, Ttl: length(cache.Age)})
	}
	return wasmStep{agent.Start(request)}
}

func runChild(request childRequest) hostStep {
	options := child.Options{Id: text(request.id), OnClose: child.OnParentCloseCancel, Labels: pairs(request.labels)}
	if request.abandon {
		options.OnClose = child.OnParentCloseAbandon
	}
	return wasmStep{child.Start(request.module, request.input, wit.Some(options))}
}

func runInfo() RunInfo {
	info := context.Info()
	defer runtime.Release()
	labels := make(map[string]string, len(info.Labels))
	for _, label := range info.Labels {
		labels[strings.Clone(label.F0)] = strings.Clone(label.F1)
	}
	return RunInfo{
		Run: strings.Clone(info.Run), Workflow: strings.Clone(info.Workflow),
		Digest: strings.Clone(info.Digest), Parent: strings.Clone(info.Parent.SomeOr("")),
		Started: time.UnixMilli(int64(info.Started)).UTC(), Attempt: info.Attempt, Labels: labels,
	}
}

func init() {
	host.startAgent = askAgent
	host.sleepUntil = func(at uint64) hostStep { return wasmStep{sleep.Start(at)} }
	host.sleepFor = func(length uint64) hostStep { return wasmStep{sleep.StartFor(length)} }
	host.startSignal = func(name string, timeout *uint64) hostStep {
		return wasmStep{signal.Start(name, option(timeout))}
	}
	host.startAsk = func(asked askRequest) hostStep {
		question := signal.Question{
			Prompt: asked.prompt, Choices: asked.choices, Schema: option(asked.schema), Details: option(asked.details),
		}
		return wasmStep{signal.StartAsk(question, option(asked.timeout))}
	}
	host.send = func(run, name, payload string) *Failure {
		result := signal.Send(run, name, payload)
		defer runtime.Release()
		if result.IsErr() {
			return failureFrom(result.Err())
		}
		return nil
	}
	host.post = signal.Post
	host.startChild = runChild
	host.newSet = func() hostSet { return wasmSet{types.MakeWaitSet()} }
	host.info = runInfo
	host.now = context.Now
	host.random = context.Random
	host.budget = func() Spending {
		budget := context.Budget()
		return Spending{Total: budget.Total.SomeOr(0), Limited: budget.Total.IsSome(), Spent: budget.Spent}
	}
	host.patched = context.Patched
	host.cancelled = context.Cancelled
	host.phase = context.Phase
	host.publish = context.Publish
	host.continueAs = context.ContinueAsNew
	host.write = func(level level, message string, fields [][2]string) {
		log.Write(log.Level(level), message, pairs(fields))
	}
	host.panicked = func(message string) { log.Panicked(message, wit.None[string]()) }
	export_world.Workflow = func(input string) export_world.Result {
		// Copied: it is the host's memory.
		given := strings.Clone(input)
		runtime.Release()
		output, failure := export(given)
		if failure != nil {
			return wit.Err[string](failureTo(failure))
		}
		return wit.Ok[string, types.Failure](output)
	}
}
