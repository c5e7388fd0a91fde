package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// A host for tests: it tells what was sent, and answers with the next of its responses.
type fake struct {
	sent      []string
	told      []string
	responses []*fakeResponse
}

type fakeResponse struct {
	code   int
	header [][2]string
	pieces []string
	end    error
	closed bool
}

func (response *fakeResponse) status() int          { return response.code }
func (response *fakeResponse) headers() [][2]string { return response.header }
func (response *fakeResponse) close()               { response.closed = true }

func (response *fakeResponse) read() ([]byte, error) {
	if len(response.pieces) == 0 {
		return nil, response.end
	}
	piece := response.pieces[0]
	response.pieces = response.pieces[1:]
	return []byte(piece), nil
}

func newFake(responses ...*fakeResponse) *fake {
	fake := &fake{responses: responses}
	tell := func(what string) func(text string) {
		return func(text string) { fake.told = append(fake.told, what+" "+text) }
	}
	host.chunk, host.line = tell("chunk"), tell("line")
	host.transcript, host.heartbeat = tell("transcript"), tell("heartbeat")
	host.cancelled = func() bool { return true }
	host.send = func(method, url string, header [][2]string, body []byte, timeout time.Duration) (hostResponse, error) {
		text := "none"
		if body != nil {
			text = fmt.Sprintf("%q", body)
		}
		fake.sent = append(fake.sent, fmt.Sprint(method, " ", url, " ", header, " ", text, " ", timeout))
		if len(fake.responses) == 0 {
			return nil, Failf(Rejected, "the host denies the request: %s", url)
		}
		response := fake.responses[0]
		fake.responses = fake.responses[1:]
		return response, nil
	}
	return fake
}

func equal[T any](t *testing.T, got, want T) {
	t.Helper()
	one, _ := json.Marshal(got)
	other, _ := json.Marshal(want)
	if string(one) != string(other) {
		t.Fatalf("got  %s\nwant %s", one, other)
	}
}

func TestAnAnswerIsAReplyOrItsOutput(t *testing.T) {
	Agent(func(call *Call) (map[string]int, error) { return map[string]int{"a": 1}, nil })
	output, reply, failure := answer(&Call{})
	equal(t, output, `{"a":1}`)
	if failure != nil || reply.Model != "" || reply.Usage != nil {
		t.Fatal(reply, failure)
	}
	usage := &Usage{InputTokens: 3}
	for _, given := range []any{Reply{Output: nil, Model: "m", Usage: usage}, &Reply{Model: "m", Usage: usage}} {
		Agent(func(*Call) (any, error) { return given, nil })
		output, reply, failure = answer(&Call{})
		if output != "null" || reply.Model != "m" || reply.Usage != usage || failure != nil {
			t.Fatal(output, reply, failure)
		}
	}
	Agent(func(*Call) (float64, error) { return math.NaN(), nil })
	_, _, failure = answer(&Call{})
	if failure.Kind != InvalidOutput || !strings.Contains(failure.Message, "cannot be written as JSON") {
		t.Fatal(failure)
	}
}

func TestAnErrorIsAFailure(t *testing.T) {
	for _, test := range []struct {
		err  error
		want Failure
	}{
		{errors.New("of its own"), Failure{Kind: Failed, Message: "of its own"}},
		{Failf(Rejected, "no %d", 1), Failure{Kind: Rejected, Message: "no 1"}},
		{
			fmt.Errorf("wrapped: %w", &Failure{Kind: Unavailable, Message: "busy", RetryAfter: time.Second}),
			Failure{Kind: Unavailable, Message: "wrapped: busy", RetryAfter: time.Second},
		},
	} {
		Agent(func(*Call) (any, error) { return "dropped", test.err })
		_, _, failure := answer(&Call{})
		equal(t, *failure, test.want)
	}
}

func TestAPanicIsAFailureWithItsStack(t *testing.T) {
	Agent(func(*Call) (any, error) { panic("not like this") })
	_, _, failure := answer(&Call{})
	details, _ := json.Marshal(failure.Details)
	if failure.Kind != Failed || failure.Message != "the plugin panicked: not like this" {
		t.Fatal(failure)
	}
	if !strings.Contains(string(details), "plugin_test.go") {
		t.Fatal(string(details))
	}
}

func TestInputAndOptionsAreReadOrRejected(t *testing.T) {
	call := &Call{Input: json.RawMessage(`{"n":1}`), Options: json.RawMessage(`"text"`)}
	var input struct{ N int }
	if err := call.ReadInput(&input); err != nil || input.N != 1 {
		t.Fatal(err, input)
	}
	options := struct{ URL string }{"default"}
	var failure *Failure
	if err := call.ReadOptions(&options); !errors.As(err, &failure) || failure.Kind != Rejected {
		t.Fatal(err)
	}
	if err := (&Call{}).ReadOptions(&options); err != nil || options.URL != "default" {
		t.Fatal(err, options)
	}
	if err := (&Call{}).ReadInput(&input); err != nil {
		t.Fatal(err)
	}
}

func TestARequestIsSentAsItIs(t *testing.T) {
	response := &fakeResponse{
		code: 200, header: [][2]string{{"X-A", "1"}, {"x-a", "2"}}, pieces: []string{`{"a`, "", `":7}`},
	}
	fake := newFake(response, &fakeResponse{code: 204}, &fakeResponse{code: 200})
	got, err := Request{
		Method: "PUT", URL: "https://a.org/", Body: []int{1}, Timeout: time.Second,
		Header: map[string]string{"b": "2", "a": "1"},
	}.Send()
	if err != nil {
		t.Fatal(err)
	}
	var body struct{ A int }
	if err := got.JSON(&body); err != nil || body.A != 7 || !response.closed {
		t.Fatal(err, body, response)
	}
	equal(t, got.Header["x-a"], []string{"1", "2"})
	if got.Header.Get("X-A") != "1" || got.Header.Get("x-b") != "" {
		t.Fatal(got.Header)
	}
	if _, err := Post("https://a.org/", "text").Send(); err != nil {
		t.Fatal(err)
	}
	if _, err := Get("https://a.org/?b").Send(); err != nil {
		t.Fatal(err)
	}
	equal(t, fake.sent, []string{
		`PUT https://a.org/ [[a 1] [b 2] [content-type application/json]] "[1]" 1s`,
		`POST https://a.org/ [] "text" 0s`,
		`GET https://a.org/?b [] none 0s`,
	})
	var failure *Failure
	if _, err := Get("https://b.org/").Send(); !errors.As(err, &failure) || failure.Kind != Rejected {
		t.Fatal(err)
	}
	if _, err := Post("https://b.org/", func() {}).Send(); !errors.As(err, &failure) || failure.Kind != Rejected {
		t.Fatal(err)
	}
}

func TestABodyThatBreaksOffIsAnError(t *testing.T) {
	broken := Failf(Unavailable, "the service gives no answer: reset")
	newFake(&fakeResponse{code: 200, pieces: []string{"half"}, end: broken})
	response, _ := Get("https://a.org/").Send()
	piece := make([]byte, 3)
	if count, err := response.Body.Read(piece); count != 3 || err != nil {
		t.Fatal(count, err)
	}
	if text, err := response.Text(); text != "f" || !errors.Is(err, broken) {
		t.Fatal(text, err)
	}
	if _, err := response.Body.Read(piece); err == nil || err == io.EOF {
		t.Fatal(err)
	}
}

func TestAStatusSaysWhatComesNext(t *testing.T) {
	for _, test := range []struct {
		status int
		after  string
		want   Failure
	}{
		{401, "5", Failure{Kind: Rejected, Auth: true}},
		{403, "", Failure{Kind: Rejected, Auth: true}},
		{302, "", Failure{Kind: Rejected}},
		{404, "", Failure{Kind: Rejected}},
		{408, "", Failure{Kind: TimedOut}},
		{429, "1.5", Failure{Kind: Unavailable, RetryAfter: 1500 * time.Millisecond}},
		{503, "never", Failure{Kind: Unavailable}},
	} {
		newFake(&fakeResponse{
			code: test.status, header: [][2]string{{"Retry-After", test.after}}, pieces: []string{"  why\n not "},
		})
		response, _ := Get("https://a.org/").Send()
		var failure *Failure
		if err := response.JSON(nil); !errors.As(err, &failure) {
			t.Fatal(err)
		}
		test.want.Message = fmt.Sprintf("the service answered %d: why not", test.status)
		equal(t, *failure, test.want)
	}
	newFake(&fakeResponse{code: 200, pieces: []string{strings.Repeat("x", 400)}})
	response, _ := Get("https://a.org/").Send()
	var failure *Failure
	err := response.JSON(new(int))
	if !errors.As(err, &failure) || failure.Kind != InvalidOutput || !strings.HasSuffix(failure.Message, "xxx…") {
		t.Fatal(err)
	}
}

func TestProgressIsTold(t *testing.T) {
	fake := newFake()
	Chunk("a")
	Linef("%d", 1)
	if err := errors.Join(Transcript(map[string]int{"b": 2}), Heartbeat([]int{3})); err != nil {
		t.Fatal(err)
	}
	if Heartbeat(func() {}) == nil || !Cancelled() {
		t.Fatal("a function is no JSON")
	}
	if !slices.Equal(fake.told, []string{"chunk a", "line 1", `transcript {"b":2}`, "heartbeat [3]"}) {
		t.Fatal(fake.told)
	}
}
