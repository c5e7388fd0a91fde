// A plugin: an agent that answers calls from workflows.
package main

import "github.com/wfhost/wfhost/guest-sdk/go/plugin"

// The options of a call.
type options struct {
	URL string `json:"url"`
}

type answer struct {
	Asked string `json:"asked"`
	Bytes int    `json:"bytes"`
}

func init() { plugin.Agent(run) }
func main() {}

func run(call *plugin.Call) (*answer, error) {
	options := options{URL: "https://example.com/"}
	if err := call.ReadOptions(&options); err != nil {
		return nil, err
	}
	plugin.Linef("reads %s", options.URL)
	response, err := plugin.Get(options.URL).Send()
	if err != nil {
		return nil, err
	}
	if err := response.Successful(); err != nil {
		return nil, err
	}
	page, err := response.Bytes()
	if err != nil {
		return nil, err
	}
	return &answer{call.Prompt, len(page)}, nil
}
