// A plugin that does what the options of a call say: in Go, what tests/guests/puppet does of the policy of calls.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/wfhost/wfhost/guest-sdk/go/plugin"
)

// An act is its name, or an object with its name and argument.
type act struct {
	name string
	with json.RawMessage
}

func (act *act) UnmarshalJSON(text []byte) error {
	if json.Unmarshal(text, &act.name) == nil {
		return nil
	}
	var one map[string]json.RawMessage
	err := json.Unmarshal(text, &one)
	for act.name, act.with = range one {
	}
	return err
}

func (act act) read(into any) {
	if err := json.Unmarshal(act.with, into); err != nil {
		panic(fmt.Sprintf("%s: %v", act.name, err))
	}
}

func (act act) text() string {
	var text string
	act.read(&text)
	return text
}

func init() { plugin.Agent(puppet) }
func main() {}

func puppet(call *plugin.Call) (*plugin.Reply, error) {
	var options struct {
		Do []act `json:"do"`
	}
	if err := call.ReadOptions(&options); err != nil {
		return nil, err
	}
	reply := &plugin.Reply{}
	results := []any{}
	var answer any
	for acts := options.Do; len(acts) > 0; {
		act := acts[0]
		acts = acts[1:]
		switch act.name {
		case "answer":
			act.read(&answer)
		case "call":
			answer = describe(call)
		case "by_attempt":
			acts = append(way(act, int(call.Attempt)-1), acts...)
		case "by_turn":
			turn, _ := strconv.Atoi(call.Key[strings.LastIndex(call.Key, "-")+1:])
			acts = append(way(act, turn), acts...)
		case "usage":
			var usage struct{ Input, Output, Micros uint64 }
			act.read(&usage)
			reply.Usage = &plugin.Usage{InputTokens: usage.Input, OutputTokens: usage.Output, CostMicros: usage.Micros}
		case "model":
			reply.Model = act.text()
		case "session":
			reply.Session = act.text()
		case "fail":
			var fail struct {
				Kind       plugin.Kind
				Message    string
				Auth       bool
				RetryAfter int64 `json:"retry_after"`
			}
			act.read(&fail)
			failure := plugin.Failf(fail.Kind, "%s", fail.Message)
			failure.Auth, failure.Usage = fail.Auth, reply.Usage
			failure.RetryAfter = time.Duration(fail.RetryAfter) * time.Millisecond
			return nil, failure
		default:
			result, err := perform(act)
			if err != nil {
				result = map[string]any{"error": err.Error()}
			}
			results = append(results, result)
		}
	}
	reply.Output = results
	if answer != nil {
		reply.Output = answer
	}
	return reply, nil
}

func way(of act, at int) []act {
	var ways [][]act
	of.read(&ways)
	return append([]act{}, ways[min(at, len(ways)-1)]...)
}

func describe(call *plugin.Call) any {
	history := [][2]string{}
	for _, exchange := range call.History {
		history = append(history, [2]string{exchange.Said, exchange.Answered})
	}
	optional := func(text string) any {
		if text == "" {
			return nil
		}
		return text
	}
	return map[string]any{
		"message": call.Message, "prompt": call.Prompt, "input": call.Input, "schema": call.Schema,
		"model": optional(call.Model), "session": optional(call.Session), "history": history, "key": call.Key,
		"run": call.Run, "step": call.Step, "attempt": call.Attempt, "heartbeat": call.Heartbeat,
	}
}

func perform(act act) (any, error) {
	switch act.name {
	case "chunk":
		plugin.Chunk(act.text())
	case "line":
		plugin.Line(act.text())
	case "print":
		fmt.Println(act.text())
	case "transcript":
		return nil, plugin.Transcript(act.with)
	case "heartbeat":
		return nil, plugin.Heartbeat(act.with)
	case "fetch":
		return fetch(act)
	case "env":
		variables := map[string]string{}
		for _, variable := range os.Environ() {
			name, value, _ := strings.Cut(variable, "=")
			variables[name] = value
		}
		return variables, nil
	case "sleep":
		var millis int64
		act.read(&millis)
		time.Sleep(time.Duration(millis) * time.Millisecond)
	case "spin":
		for number := uint64(1); number != 0; number = number*3 | 1 {
		}
	case "panic":
		panic(act.text())
	case "farewell":
		plugin.Line("waits to be cancelled")
		for begin := time.Now(); !plugin.Cancelled() && time.Since(begin) < time.Minute; {
			time.Sleep(10 * time.Millisecond)
		}
		_, err := plugin.Get(act.text()).Send()
		return nil, err
	default:
		return nil, fmt.Errorf("there is no act %q", act.name)
	}
	return nil, nil
}

func fetch(act act) (any, error) {
	given := struct {
		Method, URL string
		Headers     [][2]string
		Body        *string
		Pieces      bool
		Timeout     int64
	}{Method: "GET"}
	act.read(&given)
	request := plugin.Request{
		Method: given.Method, URL: given.URL, Header: map[string]string{},
		Timeout: time.Duration(given.Timeout) * time.Millisecond,
	}
	for _, header := range given.Headers {
		request.Header[header[0]] = header[1]
	}
	if given.Body != nil {
		request.Body = *given.Body
	}
	response, err := request.Send()
	if err != nil {
		return nil, err
	}
	if !given.Pieces {
		text, err := response.Text()
		return map[string]any{"status": response.Status, "body": text}, err
	}
	pieces, buffer := []string{}, make([]byte, 1<<16)
	for {
		count, err := response.Body.Read(buffer)
		if count == 0 {
			return map[string]any{"status": response.Status, "body": pieces}, response.Body.Close()
		}
		if err != nil {
			return nil, err
		}
		plugin.Chunk(string(buffer[:count]))
		pieces = append(pieces, string(buffer[:count]))
	}
}
