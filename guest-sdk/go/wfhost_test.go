package wfhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A host for tests: steps end at times of a clock that goes on when the program waits.
type fake struct {
	clock   uint64
	steps   uint64
	story   []string
	answers map[string]answer
	asked   agentRequest
	child   childRequest
	stop    bool
}

// The longest wait, in milliseconds.
const longest = 100 * 366 * 24 * 3600 * 1000

type answer struct {
	at    uint64
	reply string
	fail  *Failure
}

type fakeStep struct {
	fake   *fake
	number uint64
	name   string
	at     uint64
	answer answer
}

func (fake *fake) start(name string, after uint64, answer answer) hostStep {
	fake.steps++
	fake.story = append(fake.story, "start "+name)
	return &fakeStep{fake, fake.steps, name, fake.clock + after, answer}
}

func (step *fakeStep) id() uint64 { return step.number }

func (step *fakeStep) get() (string, *Failure) {
	step.fake.clock = max(step.fake.clock, step.at)
	return step.answer.reply, step.answer.fail
}

func (step *fakeStep) drop() {
	if step.at > step.fake.clock {
		step.fake.story = append(step.fake.story, "cancel "+step.name)
	}
}

type fakeSet struct {
	fake    *fake
	members map[uint64]*fakeStep
}

func (set fakeSet) add(step hostStep, tag uint64) { set.members[tag] = step.(*fakeStep) }
func (set fakeSet) remove(tag uint64)             { delete(set.members, tag) }

func (set fakeSet) next() uint64 {
	tags := slices.Collect(maps.Keys(set.members))
	first := slices.MinFunc(tags, func(one, other uint64) int {
		a, b := set.members[one], set.members[other]
		return int(a.at) - int(b.at) + int(a.number-b.number)/1000
	})
	set.fake.clock = max(set.fake.clock, set.members[first].at)
	delete(set.members, first)
	return first
}

func (fake *fake) install() {
	open, begun = map[*operation]struct{}{}, 0
	waits = waiting{steps: map[uint64]*operation{}}
	host.startAgent = func(request agentRequest) hostStep {
		fake.asked = request
		given, known := fake.answers[request.prompt]
		if !known {
			given.at = 1
		}
		if given.reply == "" {
			text, _ := json.Marshal(request.prompt)
			given.reply = `{"output":` + string(text) + `}`
		}
		return fake.start("agent "+request.prompt, given.at, given)
	}
	host.sleepFor = func(length uint64) hostStep {
		return fake.start(fmt.Sprintf("sleep %d", length), length, answer{reply: "null"})
	}
	host.sleepUntil = func(at uint64) hostStep {
		after := at - min(fake.clock, at)
		// The clock of the contexts is that of the machine.
		if after > uint64(time.Now().UnixMilli())+longest {
			return fake.start("sleep until", 0, answer{fail: &Failure{Kind: Rejected, Message: "too long"}})
		}
		return fake.start("sleep until", after, answer{reply: "null"})
	}
	host.startSignal = func(name string, timeout *uint64) hostStep {
		at := uint64(1 << 40)
		if timeout != nil {
			at = *timeout
		}
		return fake.start("signal "+name, at, answer{fail: &Failure{Kind: TimedOut, Message: "no signal"}})
	}
	host.startChild = func(request childRequest) hostStep {
		fake.child = request
		return fake.start("child "+request.module, 1, answer{reply: "[1]"})
	}
	host.newSet = func() hostSet { return fakeSet{fake, map[uint64]*fakeStep{}} }
	host.now = func() uint64 { return fake.clock }
	host.random = func() uint64 { return 1 << 63 }
	host.cancelled = func() bool { return fake.stop }
	host.continueAs = func(input string) { fake.story = append(fake.story, "again "+input) }
	host.write = func(level level, message string, fields [][2]string) {
		fake.story = append(fake.story, fmt.Sprintf("%d %s %v", level, message, fields))
	}
	host.panicked = func(message string) { fake.story = append(fake.story, "panic "+message) }
}

// Runs a workflow over a host with these answers.
func run[O any](t *testing.T, answers map[string]answer, body func(ctx context.Context) (O, error)) (*fake, O, *Failure) {
	t.Helper()
	// As in a component: one thread.
	t.Cleanup(func() { runtime.GOMAXPROCS(runtime.NumCPU()) })
	runtime.GOMAXPROCS(1)
	fake := &fake{answers: answers}
	fake.install()
	Workflow(func(ctx context.Context, _ any) (O, error) { return body(ctx) })
	text, failure := export("null")
	// A component ends with its run; here goroutines whose context has ended see that first.
	for range 100 {
		runtime.Gosched()
	}
	var output O
	if failure == nil {
		if err := json.Unmarshal([]byte(text), &output); err != nil {
			t.Fatal(err)
		}
	}
	return fake, output, failure
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("\n got %#v\nwant %#v", got, want)
	}
}

func ask(prompt string) func(ctx context.Context) (string, error) {
	return Agent{Prompt: prompt}.Text
}

func failing(kind Kind, details string) answer {
	failure := &Failure{Kind: kind, Message: "no", Attempts: 1}
	if details != "" {
		failure.Details = []byte(details)
	}
	return answer{at: 1, fail: failure}
}

func TestAWorkflowGivesItsResultAndItsErrorFailsTheRun(t *testing.T) {
	fake, output, _ := run(t, nil, func(ctx context.Context) (string, error) {
		if err := Sleep(ctx, time.Second); err != nil {
			return "", err
		}
		return Agent{Prompt: "hello"}.Text(ctx)
	})
	same(t, output, "hello")
	same(t, fake.story, []string{"start sleep 1000", "start agent hello"})
	_, _, failure := run(t, nil, func(context.Context) (int, error) { return 0, errors.New("of its own") })
	same(t, failure, &Failure{Kind: Failed, Message: "of its own"})
	_, _, failure = run(t, map[string]answer{"a": failing(BudgetExceeded, `{"n":7}`)}, func(ctx context.Context) (string, error) {
		_, err := Agent{Prompt: "a"}.Text(ctx)
		return "", fmt.Errorf("wrapped: %w", err)
	})
	same(t, failure, &Failure{Kind: BudgetExceeded, Message: "wrapped: no", Details: []byte(`{"n":7}`), Attempts: 1})
}

func TestInputThatDoesNotFitIsRejected(t *testing.T) {
	Workflow(func(context.Context, string) (int, error) { return 0, nil })
	_, failure := export("{}")
	same(t, failure.Kind, Rejected)
}

func TestGoroutinesGoOnBesideEachOther(t *testing.T) {
	fake, output, _ := run(t, map[string]answer{"a1": {at: 10}, "b1": {at: 1}}, func(ctx context.Context) ([]string, error) {
		var group sync.WaitGroup
		results := make(chan string, 4)
		for _, name := range []string{"a", "b"} {
			group.Add(1)
			begin(func() {
				defer group.Done()
				for part := 1; part <= 2; part++ {
					text, _ := Agent{Prompt: fmt.Sprint(name, part)}.Text(ctx)
					results <- text
				}
			})
		}
		group.Wait()
		close(results)
		var all []string
		for text := range results {
			all = append(all, text)
		}
		return all, nil
	})
	same(t, output, []string{"b1", "b2", "a1", "a2"})
	same(t, fake.story, []string{"start agent a1", "start agent b1", "start agent b2", "start agent a2"})
}

func TestSelectWaitsForSteps(t *testing.T) {
	fake, output, _ := run(t, map[string]answer{"slow": {at: 50}}, func(ctx context.Context) (string, error) {
		slow, limit := Agent{Prompt: "slow"}.Start(), StartSleep(5*time.Millisecond)
		select {
		case <-slow.Done():
			return "slow", nil
		case <-limit.Done():
			slow.Cancel()
			_, err := slow.Get(ctx)
			return "limit", map[bool]error{true: nil, false: err}[Cancelled.Is(err)]
		}
	})
	same(t, output, "limit")
	same(t, fake.story[2:], []string{"cancel agent slow"})
}

func TestAContextThatEndsCancelsWhatIsWaitedFor(t *testing.T) {
	fake, output, _ := run(t, map[string]answer{"slow": {at: 50}}, func(ctx context.Context) (string, error) {
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		ended := make(chan error)
		go func() {
			_, err := Agent{Prompt: "slow"}.Text(inner)
			ended <- err
		}()
		if err := Sleep(ctx, time.Millisecond); err != nil {
			return "", err
		}
		cancel()
		err := <-ended
		if !errors.Is(err, context.Canceled) || !Cancelled.Is(err) {
			return "", err
		}
		_, err = Agent{Prompt: "never"}.Text(inner)
		return string(failureOf(err).Kind), nil
	})
	same(t, output, "cancelled")
	same(t, slices.Contains(fake.story, "cancel agent slow"), true)
}

func TestDeadlinesOfContextsAreDurable(t *testing.T) {
	fake, _, failure := run(t, map[string]answer{"slow": {at: 1 << 50}}, func(ctx context.Context) (string, error) {
		inner, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		text, err := Agent{Prompt: "slow"}.Text(inner)
		if !errors.Is(err, context.DeadlineExceeded) {
			return text, errors.New("no deadline")
		}
		return text, err
	})
	same(t, failure.Kind, TimedOut)
	same(t, fake.story, []string{"start agent slow", "start sleep until", "cancel agent slow"})
}

func TestADeadlineThatTheHostRefusesIsNoneThatPassed(t *testing.T) {
	_, _, failure := run(t, map[string]answer{"slow": {at: 1 << 40}}, func(ctx context.Context) (string, error) {
		inner, cancel := context.WithTimeout(ctx, 200*366*24*time.Hour)
		defer cancel()
		return Agent{Prompt: "slow"}.Text(inner)
	})
	same(t, failure, &Failure{Kind: Rejected, Message: "too long"})
}

func TestAnyAndAll(t *testing.T) {
	answers := map[string]answer{"a": {at: 9}, "b": {at: 3}, "bad": failing(Failed, "")}
	_, output, _ := run(t, answers, func(ctx context.Context) ([]any, error) {
		a, b := Agent{Prompt: "a"}.Start(), Agent{Prompt: "b"}.Start()
		first, err := Any(ctx, a, b)
		if err != nil {
			return nil, err
		}
		all, err := All(ctx, []*Step[string]{a, b})
		if err != nil {
			return nil, err
		}
		_, err = All(ctx, []*Step[string]{Agent{Prompt: "bad"}.Start()})
		return []any{first, all, err.Error()}, nil
	})
	same(t, output, []any{1.0, []any{"a", "b"}, "no"})
}

func TestADeadlineEndsTheWaitForAnyStep(t *testing.T) {
	answers := map[string]answer{"slow": {at: 1 << 50}, "slower": {at: 1 << 51}, "fast": {at: 3}}
	within := func(limit time.Duration, prompts ...string) (*fake, *Failure) {
		fake, _, failure := run(t, answers, func(ctx context.Context) (int, error) {
			inner, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			var steps []Waitable
			for _, prompt := range prompts {
				steps = append(steps, Agent{Prompt: prompt}.Start())
			}
			return Any(inner, steps...)
		})
		return fake, failure
	}
	fake, failure := within(time.Hour, "slow", "slower")
	same(t, failure.Kind, TimedOut)
	// The steps go on.
	same(t, fake.story, []string{"start agent slow", "start agent slower", "start sleep until"})
	_, failure = within(200*366*24*time.Hour, "slow", "slower")
	same(t, failure, &Failure{Kind: Rejected, Message: "too long"})
	fake, failure = within(time.Hour, "slow", "fast")
	same(t, failure, (*Failure)(nil))
	same(t, fake.story[2:], []string{"start sleep until", "cancel sleep until"})
	_, failure = within(-time.Hour, "slow")
	same(t, failure.Kind, TimedOut)
}

func TestWhatEndsAtOnceWinsTheRaceWithoutTheHost(t *testing.T) {
	at := func(value string) func(ctx context.Context) (string, error) {
		return func(context.Context) (string, error) { return value, nil }
	}
	waits := func(ctx context.Context) (string, error) { return Signal[string](ctx, "never") }
	contests := map[string]func(ctx context.Context) error{
		"race": func(ctx context.Context) error {
			_, _, err := Race(ctx, waits, at("b"), at("c"), at("d"))
			return err
		},
		"quorum": func(ctx context.Context) error {
			_, err := Quorum(ctx, 3, waits, at("b"), at("c"), at("d"))
			return err
		},
		"map": func(ctx context.Context) error {
			_, err := Map(ctx, []int{0, 1, 2, 3}, 4, func(ctx context.Context, item int) (string, error) {
				if item == 0 {
					return waits(ctx)
				}
				return "", errors.New("at once")
			})
			if err.Error() != "at once" {
				return err
			}
			return nil
		},
	}
	for name, contest := range contests {
		fake, _, failure := run(t, nil, func(ctx context.Context) (string, error) { return "", contest(ctx) })
		same(t, failure, (*Failure)(nil))
		same(t, append([]string{name}, fake.story...), []string{name, "start signal never", "cancel signal never"})
	}
}

func TestTheFirstToEndWinsTheRace(t *testing.T) {
	fake, output, _ := run(t, map[string]answer{"slow": {at: 50}}, func(ctx context.Context) ([]any, error) {
		index, text, err := Race(ctx, ask("slow"), ask("fast"), func(ctx context.Context) (string, error) {
			return Signal[string](ctx, "never")
		})
		if err == nil {
			// The others are told when they have their turn.
			err = Sleep(ctx, time.Millisecond)
		}
		return []any{index, text}, err
	})
	same(t, output, []any{1.0, "fast"})
	same(t, fake.story[:3], []string{"start agent slow", "start agent fast", "start signal never"})
	cancelled := slices.DeleteFunc(fake.story, func(line string) bool { return !strings.HasPrefix(line, "cancel") })
	slices.Sort(cancelled)
	same(t, cancelled, []string{"cancel agent slow", "cancel signal never"})
}

func TestFailuresDoNotCountWhileThereIsHope(t *testing.T) {
	answers := map[string]answer{"a": failing(Failed, ""), "b": {at: 3}, "c": {at: 2}, "d": {at: 9, fail: &Failure{Kind: Failed, Message: "last"}}}
	_, output, _ := run(t, answers, func(ctx context.Context) (string, error) {
		return FirstOK(ctx, ask("a"), ask("b"), ask("c"), ask("d"))
	})
	same(t, output, "c")
	_, two, _ := run(t, answers, func(ctx context.Context) ([]Success[string], error) {
		return Quorum(ctx, 2, ask("a"), ask("b"), ask("c"), ask("d"))
	})
	same(t, two, []Success[string]{{2, "c"}, {1, "b"}})
	_, _, failure := run(t, answers, func(ctx context.Context) ([]Success[string], error) {
		return Quorum(ctx, 2, ask("a"), ask("b"), ask("d"))
	})
	same(t, failure.Message, "2 of 3 tries failed, 2 have to succeed: last")
	same(t, strings.HasPrefix(string(failure.Details), `{"failures":[{"index":0,"kind":"failed","message":"no"}`), true)
	_, _, failure = run(t, nil, func(ctx context.Context) (string, error) { return FirstOK[string](ctx) })
	same(t, failure.Kind, Rejected)
}

func TestNoMoreRunThanAllowed(t *testing.T) {
	answers := map[string]answer{"0": {at: 30}}
	double := func(ctx context.Context, item int) (string, error) {
		text, err := Agent{Prompt: fmt.Sprint(item)}.Text(ctx)
		return text + text, err
	}
	fake, output, _ := run(t, answers, func(ctx context.Context) ([]string, error) {
		return Map(ctx, []int{0, 1, 2, 3}, 2, double)
	})
	same(t, output, []string{"00", "11", "22", "33"})
	same(t, fake.story, []string{"start agent 0", "start agent 1", "start agent 2", "start agent 3"})
	answers["1"] = failing(Failed, "")
	fake, _, failure := run(t, answers, func(ctx context.Context) ([]string, error) {
		defer func() { _ = Sleep(ctx, time.Millisecond) }()
		return Map(ctx, []int{0, 1, 2, 3}, 2, double)
	})
	same(t, failure.Message, "no")
	same(t, fake.story[:2], []string{"start agent 0", "start agent 1"})
	same(t, slices.Contains(fake.story, "cancel agent 0"), true)
	same(t, slices.Contains(fake.story, "start agent 2"), false)
}

func TestABlockIsTriedAgainUnlessTheFailureWouldComeAgain(t *testing.T) {
	answers := map[string]answer{"flaky": failing(Failed, ""), "bad": failing(Rejected, ""), "closed": failing(Failed, `{"reason":"closed"}`)}
	try := func(prompt string, policy Retry) []string {
		fake, _, failure := run(t, answers, func(ctx context.Context) (string, error) {
			return Again(ctx, policy, func(ctx context.Context, _ uint32) (string, error) { return Agent{Prompt: prompt}.Text(ctx) })
		})
		same(t, failure.Message, "no")
		return slices.DeleteFunc(fake.story, func(line string) bool { return !strings.HasPrefix(line, "start sleep") })
	}
	same(t, try("flaky", Retry{}), []string{"start sleep 1000", "start sleep 2000"})
	same(t, len(try("bad", Retry{})), 0)
	same(t, len(try("closed", Retry{Fatal: []string{"Closed"}})), 0)
}

func TestZeroValuesOfAPolicyAreItsDefaults(t *testing.T) {
	fake, _, _ := run(t, nil, func(ctx context.Context) (string, error) {
		return Agent{Prompt: "a", Retry: &Retry{MaxAttempts: 5}}.Text(ctx)
	})
	same(t, *fake.asked.retry, Retry{MaxAttempts: 5, Initial: time.Second, Factor: 2, Max: time.Minute, Jitter: 0.1})
	same(t, Retry{Jitter: -1}.whole().Jitter, float32(0))
	policy := Retry{Factor: 3, Jitter: -1}.whole()
	var delays []time.Duration
	for _, attempt := range []uint32{1, 2, 3, 4, 5, 2000} {
		delays = append(delays, policy.delay(attempt, 7)/time.Second)
	}
	same(t, delays, []time.Duration{1, 3, 9, 27, 60, 60})
	same(t, Retry{Factor: float32(math.Inf(1))}.delay(3, 7), time.Duration(0))
}

func TestARequestHasEverythingThatWasSaid(t *testing.T) {
	fake, _, _ := run(t, nil, func(ctx context.Context) (string, error) {
		return Agent{Prompt: "a", Once: true, Provider: "p", Fork: "s", Input: 7, Options: map[string]any{"t": 0}, Retry: &Retry{MaxAttempts: 5}}.Text(ctx)
	})
	asked := fake.asked
	same(t, []any{asked.retry.MaxAttempts, asked.retry.Fatal}, []any{uint32(1), []string{"unknown-outcome"}})
	same(t, []any{asked.providers, asked.session, *asked.input, *asked.options}, []any{[]string{"p"}, "s", "7", `{"fork":true,"t":0}`})
	_, _, failure := run(t, nil, func(ctx context.Context) (string, error) {
		return Agent{Prompt: "a", Input: make(chan int)}.Text(ctx)
	})
	same(t, failure.Kind, Rejected)
	fake, _, _ = run(t, nil, func(ctx context.Context) ([]int, error) {
		return Child[[]int](ctx, "crawl", 1, ChildOptions{ID: "c", Abandon: true, Labels: map[string]string{"b": "2", "a": "1"}})
	})
	same(t, fake.child, childRequest{module: "crawl", input: "1", id: "c", abandon: true, labels: [][2]string{{"a", "1"}, {"b", "2"}}})
}

type review struct {
	Verdict string   `json:"verdict" enum:"accept,reject"`
	Notes   []string `json:"notes,omitempty" doc:"what has to be changed"`
	Score   *float64
	Next    []review
	hidden  int
}

func TestSchemasAreThoseOfTheTypes(t *testing.T) {
	schema := SchemaOf[review]()
	properties := schema["properties"].(map[string]any)
	same(t, schema["required"], []string{"verdict", "Next"})
	same(t, properties["verdict"], map[string]any{"type": "string", "enum": []string{"accept", "reject"}})
	same(t, properties["notes"].(map[string]any)["description"], "what has to be changed")
	same(t, properties["Next"].(map[string]any)["items"], map[string]any{})
	same(t, len(properties), 4)
	same(t, SchemaOf[map[string]uint8](), map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "integer", "minimum": 0}})
	_ = review{hidden: 1}
}

type tree map[string]tree

type list []list

type pointer *pointer

type branch struct {
	Branches branches
}

type branches []branch

type rows []struct{ Rows rows }

type Base struct {
	ID   string `json:"id"`
	Kind string `json:"kind,omitempty"`
}

type hiddenBase struct{ Hidden int }

type Knot struct {
	*Knot
	Own int `json:"own"`
}

func TestSchemasOfTypesThatContainThemselvesHaveAnEnd(t *testing.T) {
	same(t, SchemaOf[tree](), map[string]any{"type": "object", "additionalProperties": map[string]any{}})
	same(t, SchemaOf[list](), map[string]any{"type": "array", "items": map[string]any{}})
	same(t, SchemaOf[pointer](), map[string]any{"anyOf": []any{map[string]any{}, map[string]any{"type": "null"}}})
	// One that a struct ends is written once more.
	items := SchemaOf[branches]()["items"].(map[string]any)["properties"].(map[string]any)["Branches"]
	same(t, items, map[string]any{"type": "array", "items": map[string]any{}})
	items = SchemaOf[rows]()["items"].(map[string]any)["properties"].(map[string]any)["Rows"]
	same(t, items, map[string]any{"type": "array", "items": map[string]any{}})
	same(t, SchemaOf[Knot]()["properties"], map[string]any{"own": map[string]any{"type": "integer"}})
}

func TestMembersOfEmbeddedPointersArePromoted(t *testing.T) {
	type order struct {
		*Base
		*hiddenBase
		Count int `json:"count"`
	}
	schema := SchemaOf[order]()
	text := map[string]any{"type": "string"}
	same(t, schema["properties"], map[string]any{"id": text, "kind": text, "count": map[string]any{"type": "integer"}})
	same(t, schema["required"], []string{"count"})
	type named struct {
		*Base `json:"base"`
	}
	same(t, len(SchemaOf[named]()["properties"].(map[string]any)), 1)
	type whole struct {
		Base
		Count int `json:"count"`
	}
	same(t, SchemaOf[whole]()["required"], []string{"id", "count"})
}

func TestAnAnswerThatIsNullHasAText(t *testing.T) {
	for output, text := range map[string]string{`null`: "null", ` "a"`: "a", `7`: "7", `""`: ""} {
		same(t, (&Reply{Output: json.RawMessage(output)}).Text(), text)
	}
}

func TestTheHostHasReadWhatASchemaWantsAsData(t *testing.T) {
	answers := map[string]answer{"number": {at: 1, reply: `{"output":"5"}`}, "text": {at: 1, reply: `{"output":" {\"verdict\":\"x\"}"}`}}
	_, output, failure := run(t, answers, func(ctx context.Context) ([]any, error) {
		var with, without, reviewed any
		text := map[string]any{"type": "string"}
		errs := []error{
			Agent{Prompt: "number", Schema: text}.Decode(ctx, &with),
			Agent{Prompt: "number"}.Decode(ctx, &without),
		}
		answered, err := Answer[any](ctx, Agent{Prompt: "number", Schema: text})
		errs = append(errs, err)
		reviewed, err = Answer[review](ctx, Agent{Prompt: "text"})
		return []any{with, without, answered, reviewed.(review).Verdict}, errors.Join(append(errs, err)...)
	})
	same(t, failure, (*Failure)(nil))
	same(t, output, []any{"5", 5.0, "5", "x"})
}

func TestAnswersAreReadFromDataAndFromText(t *testing.T) {
	answers := map[string]answer{
		"data":  {at: 1, reply: `{"output":{"verdict":"accept"},"session":"s1","usage":{"input_tokens":3},"new":1}`},
		"text":  {at: 1, reply: `{"output":" {\"verdict\":\"reject\"}"}`},
		"words": {at: 1, reply: `{"output":"sorry"}`},
	}
	answer := func(prompt string) (*fake, review, *Failure) {
		return run(t, answers, func(ctx context.Context) (review, error) { return Answer[review](ctx, Agent{Prompt: prompt}) })
	}
	fake, data, _ := answer("data")
	same(t, data.Verdict, "accept")
	same(t, strings.Contains(*fake.asked.schema, `"enum":["accept","reject"]`), true)
	_, text, _ := answer("text")
	same(t, text.Verdict, "reject")
	_, _, failure := answer("words")
	same(t, failure.Kind, InvalidOutput)
	same(t, strings.HasSuffix(failure.Message, "it was: sorry"), true)
	_, reply, _ := run(t, answers, func(ctx context.Context) (*Reply, error) { return Agent{Prompt: "data"}.Reply(ctx) })
	same(t, []any{reply.Session, reply.Usage.InputTokens, reply.Text()}, []any{"s1", uint64(3), `{"verdict":"accept"}`})
}

func TestRoundsContinueAsNewAfterSoManySteps(t *testing.T) {
	rounds := func(state int) *fake {
		fake, _, _ := run(t, nil, func(ctx context.Context) (int, error) {
			return Rounds(ctx, 2, state, func(ctx context.Context, state int) (int, int, bool, error) {
				return state + 1, state, state == 5, Sleep(ctx, time.Millisecond)
			})
		})
		return fake
	}
	same(t, rounds(1).story[2:], []string{"again 3"})
	same(t, len(rounds(5).story), 1)
}

func TestWhatWasDoneIsUndoneInTheReverseOrder(t *testing.T) {
	fake, _, failure := run(t, nil, func(ctx context.Context) (any, error) {
		return nil, Compensate(ctx, func(ctx context.Context, trip *Saga) error {
			_, err := Do(ctx, trip, "flight", ask("book"), func(ctx context.Context, booking string) error {
				_, err := Agent{Prompt: "cancel " + booking}.Text(ctx)
				return err
			})
			if err != nil {
				return err
			}
			trip.Undo("hotel", func(context.Context) error { return errors.New("cannot") })
			return &Failure{Kind: Failed, Message: "no car", Details: []byte(`{"own":1}`)}
		})
	})
	same(t, failure.Message, "no car")
	same(t, string(failure.Details), `{"own":1,"saga":{"undone":["flight"],"not_undone":[{"step":"hotel","kind":"failed","message":"cannot"}]}}`)
	same(t, slices.Contains(fake.story, "start agent cancel book"), true)
}

func TestDetailsOfAnyShapeAreNoObstacleToACompensation(t *testing.T) {
	for _, details := range []string{`null`, ``, `[1]`, `{"saga":null}`, `{"saga":"own"}`, `{"saga":{"undone":7}}`} {
		_, _, failure := run(t, nil, func(ctx context.Context) (any, error) {
			return nil, Compensate(ctx, func(ctx context.Context, trip *Saga) error {
				trip.Undo("a", func(context.Context) error { return nil })
				return &Failure{Kind: Failed, Message: "no", Details: []byte(details)}
			})
		})
		same(t, failure.Message, "no")
		same(t, strings.HasSuffix(string(failure.Details), `"saga":{"undone":["a"],"not_undone":[]}}`), true)
	}
}

func TestAStepThatIsDoneAfterItsSagaHasFailedIsUndoneAsWell(t *testing.T) {
	answers := map[string]answer{"slow": {at: 100}, "broken": {at: 10, fail: &Failure{Kind: Failed, Message: "no"}}}
	fake, _, failure := run(t, answers, func(ctx context.Context) (any, error) {
		err := Compensate(ctx, func(ctx context.Context, trip *Saga) error {
			book := func(name, prompt string) {
				_, _ = Do(ctx, trip, name, ask(prompt), func(ctx context.Context, _ string) error {
					_, err := Agent{Prompt: "cancel " + name}.Text(ctx)
					return err
				})
			}
			begin(func() { book("car", "slow") })
			begin(func() { book("hotel", "hotel") })
			_, err := Agent{Prompt: "broken"}.Text(ctx)
			return err
		})
		if err.Error() != "no" {
			return nil, err
		}
		return nil, Sleep(ctx, time.Second)
	})
	same(t, failure, (*Failure)(nil))
	same(t, fake.story[3:], []string{"start agent cancel hotel", "start sleep 1000", "start agent cancel car"})
}

func TestWhatLostARaceIsUndoneToItsEnd(t *testing.T) {
	fake, output, _ := run(t, nil, func(ctx context.Context) (int, error) {
		trip := func(ctx context.Context) (string, error) {
			return "", Compensate(ctx, func(ctx context.Context, trip *Saga) error {
				trip.Undo("a", func(ctx context.Context) error {
					if err := Sleep(ctx, 50*time.Millisecond); err != nil {
						return err
					}
					_, err := Agent{Prompt: "undo"}.Text(ctx)
					return err
				})
				return Sleep(ctx, time.Second)
			})
		}
		index, _, err := Race(ctx, trip, ask("fast"))
		return index, err
	})
	same(t, output, 1)
	same(t, fake.story[len(fake.story)-1], "start agent undo")
}

func TestLogLinesHaveFields(t *testing.T) {
	fake, _, _ := run(t, nil, func(context.Context) (any, error) {
		Log.With(Fields{"who": "Ada", "step": 3}).Warnf("careful %d", 1)
		return nil, nil
	})
	same(t, fake.story, []string{"3 careful 1 [[step 3] [who Ada]]"})
}
