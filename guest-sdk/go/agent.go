package wfhost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"time"
)

// Retry is when and how often a failed attempt is retried. Zero values mean the defaults below.
type Retry struct {
	// MaxAttempts is the total number of attempts, including the first one. Default: 3.
	MaxAttempts uint32
	// Initial is the delay before the second attempt. Default: a second.
	Initial time.Duration
	// Factor multiplies each further delay. Default: 2.
	Factor float32
	// Max is the longest delay. Default: a minute.
	Max time.Duration
	// Jitter is the fraction, from 0 to 1, by which each delay varies. Default: 0.1; negative: none.
	Jitter float32
	// Fatal are kinds of failure, or reasons in their details, that are not retried.
	Fatal []string
}

func (retry Retry) whole() Retry {
	or(&retry.MaxAttempts, 3)
	or(&retry.Initial, time.Second)
	or(&retry.Factor, 2)
	or(&retry.Max, time.Minute)
	or(&retry.Jitter, 0.1)
	retry.Jitter = max(retry.Jitter, 0)
	return retry
}

func or[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}

// Limits are the time limits of a call; 0 means the host's limit.
type Limits struct {
	// Attempt is for one attempt, Total for all with their delays, Heartbeat the longest time without a
	// sign of life.
	Attempt, Total, Heartbeat time.Duration
}

// Cache reuses the answer to an equal request of an earlier run with the same version.
type Cache struct {
	Version string
	// Age is the maximum age of the answer; 0 means any age.
	Age time.Duration
}

// Agent is a call of an agent: a model, a coding agent, a service, a person. What is left empty is
// up to the configuration of the host.
type Agent struct {
	Prompt string
	// Input is structured data in addition to the prompt.
	Input any
	// Provider answers.
	Provider string
	// Providers may answer: attempt n goes to the n-th, the last one gets the rest. It takes precedence over Provider.
	Providers []string
	Model     string
	// Schema is a JSON Schema that the answer has to match; see also Answer.
	Schema any
	// Session continues an earlier conversation: Reply.Session of its last answer.
	Session string
	// Fork starts a new conversation from that point; the original is unchanged.
	Fork string
	// Workspace is the workspace of the agent, by its name in the host's configuration.
	Workspace string
	// Label is a label for people. Default: the beginning of the prompt.
	Label string
	// Group is for calls that share a concurrency limit.
	Group string
	Retry *Retry
	// Once has one call made, whatever happens: no second attempt and no correction of an answer that
	// does not fit the schema. If the host dies during it, the call fails and its failure
	// IsOutcomeUnknown. It goes before Retry.
	Once   bool
	Limits *Limits
	Cache  *Cache
	// Options is an object that is passed to the provider unchanged.
	Options map[string]any
}

// Reply is an answer with its session, usage and provider.
type Reply struct {
	// Output is a JSON string if the agent answered with plain text.
	Output json.RawMessage `json:"output"`
	// Session is the id of the conversation, to continue it.
	Session string `json:"session"`
	Model   string `json:"model"`
	// Provider is the provider that answered.
	Provider string `json:"provider"`
	// Usage is the usage of the answer; nil if the provider does not report it.
	Usage *Usage `json:"usage"`
	// Whether the call had a schema: the host has read the answer as that wants it, and text in it is text.
	fits bool
}

// Usage is the usage of an answer.
type Usage struct {
	InputTokens  uint64 `json:"input_tokens"`
	OutputTokens uint64 `json:"output_tokens"`
	CachedTokens uint64 `json:"cached_tokens"`
	// CostMicros is in millionths of a US dollar.
	CostMicros uint64 `json:"cost_micros"`
}

// Text is the answer as text: a JSON string as it is, other JSON as it is written.
func (reply *Reply) Text() string {
	if text, isText := reply.text(); isText {
		return text
	}
	return string(reply.Output)
}

func (reply *Reply) text() (text string, isText bool) {
	// Null can be read into anything.
	isText = bytes.HasPrefix(bytes.TrimSpace(reply.Output), []byte{'"'}) && json.Unmarshal(reply.Output, &text) == nil
	return text, isText
}

// Decode reads the answer into a value. If the agent answered with text, the text is parsed as JSON, unless a schema
// of the call wants text.
func (reply *Reply) Decode(into any) error {
	if reply.fits && json.Unmarshal(reply.Output, into) == nil {
		return nil
	}
	if text, isText := reply.text(); isText && json.Unmarshal([]byte(text), into) == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Output, into); err != nil {
		message := "the answer does not fit: " + err.Error() + "; it was: " + excerpt(reply.Text())
		return &Failure{Kind: InvalidOutput, Message: message}
	}
	return nil
}

func excerpt(text string) string {
	const longest = 200
	if runes := []rune(text); len(runes) > longest {
		return string(runes[:longest]) + "..."
	}
	return text
}

// Text calls the agent and waits for the answer as text.
func (call Agent) Text(ctx context.Context) (string, error) {
	return call.Start().Get(ctx)
}

// Reply calls the agent and waits for the answer with its session, usage and provider.
func (call Agent) Reply(ctx context.Context) (*Reply, error) {
	return call.StartReply().Get(ctx)
}

// Decode calls the agent, waits, and decodes the answer into a value.
func (call Agent) Decode(ctx context.Context, into any) error {
	reply, err := call.Reply(ctx)
	if err != nil {
		return err
	}
	return reply.Decode(into)
}

// Answer calls the agent and waits for an answer of a type. The agent is told its JSON Schema, SchemaOf, if the
// call has none of its own.
func Answer[T any](ctx context.Context, call Agent) (T, error) {
	return StartAnswer[T](call).Get(ctx)
}

// Start calls the agent without waiting for the answer.
func (call Agent) Start() *Step[string] {
	return startAgent(call, func(reply *Reply) (string, error) { return reply.Text(), nil })
}

// StartReply is Reply without waiting.
func (call Agent) StartReply() *Step[*Reply] {
	return startAgent(call, func(reply *Reply) (*Reply, error) { return reply, nil })
}

// StartAnswer is Answer without waiting.
func StartAnswer[T any](call Agent) *Step[T] {
	if call.Schema == nil {
		call.Schema = SchemaOf[T]()
	}
	return startAgent(call, func(reply *Reply) (T, error) {
		var value T
		err := reply.Decode(&value)
		return value, err
	})
}

func startAgent[T any](call Agent, read func(reply *Reply) (T, error)) *Step[T] {
	request, err := call.request()
	if err != nil {
		return notStarted[T](err)
	}
	return started(host.startAgent(request), func(text string) (T, error) {
		reply, err := readJSON[*Reply]("reply")(text)
		if err != nil {
			var none T
			return none, err
		}
		reply.fits = request.schema != nil
		return read(reply)
	})
}

func (call Agent) request() (agentRequest, error) {
	request := agentRequest{
		prompt: call.Prompt, providers: call.Providers, model: call.Model, session: call.Session,
		workspace: call.Workspace, label: call.Label, group: call.Group, limits: call.Limits, cache: call.Cache,
	}
	if len(request.providers) == 0 && call.Provider != "" {
		request.providers = []string{call.Provider}
	}
	// A nil map is no options.
	var options any
	if call.Options != nil {
		options = call.Options
	}
	if call.Fork != "" {
		request.session = call.Fork
		forking := maps.Clone(call.Options)
		if forking == nil {
			forking = map[string]any{}
		}
		forking["fork"] = true
		options = forking
	}
	switch {
	case call.Once:
		// A call that names this kind among the fatal ones is made at most once.
		once := Retry{MaxAttempts: 1, Fatal: []string{"unknown-outcome"}}.whole()
		request.retry = &once
	case call.Retry != nil:
		retry := call.Retry.whole()
		request.retry = &retry
	}
	return request, errors.Join(
		optional("input", call.Input, &request.input),
		optional("schema", call.Schema, &request.schema),
		optional("options", options, &request.options),
	)
}
