// A durable workflow: whatever happens to the machine, no completed step is executed twice.
package main

import (
	"context"
	"time"

	wfhost "github.com/wfhost/wfhost/guest-sdk/go"
)

type input struct {
	Name string `json:"name"`
}

type output struct {
	Greeting string `json:"greeting"`
}

func init() { wfhost.Workflow(run) }
func main() {}

func run(ctx context.Context, input input) (*output, error) {
	name := input.Name
	if name == "" {
		name = "world"
	}
	greeting, err := wfhost.Agent{Prompt: "greet " + name}.Text(ctx)
	if err != nil {
		return nil, err
	}
	// The deadline survives crashes.
	if err := wfhost.Sleep(ctx, time.Second); err != nil {
		return nil, err
	}
	wfhost.Log.With(wfhost.Fields{"name": name}).Infof("greeted")
	return &output{greeting}, nil
}
