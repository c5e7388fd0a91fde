// A durable workflow: whatever happens to the machine, no finished step is done twice.
package main

import (
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

func run(input input) (*output, error) {
	name := input.Name
	if name == "" {
		name = "world"
	}
	greeting, err := wfhost.Agent{Prompt: "greet " + name}.Text()
	if err != nil {
		return nil, err
	}
	// The deadline survives crashes.
	if err := wfhost.Sleep(time.Second); err != nil {
		return nil, err
	}
	wfhost.Infof("greeted %s", name)
	return &output{greeting}, nil
}
