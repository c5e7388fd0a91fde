// A plugin in Go that lists the releases of a repository on GitHub: the prompt is its name, like rust-lang/rust, the answer
// its newest releases.
//
//	[providers.releases]
//	kind = "plugin"
//	plugin = "releases-go.wasm"
//	[[providers.releases.http]]
//	url = "https://api.github.com/repos/"
//	methods = ["GET"]
//	inject = { authorization = { env = "GITHUB_TOKEN", prefix = "Bearer " } }
package main

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/wfhost/wfhost/guest-sdk/go/plugin"
)

// What a call may set.
type options struct {
	// Most is the largest number of releases.
	Most int `json:"most"`
	// URL is another service that speaks the same.
	URL string `json:"url"`
}

type release struct {
	Tag  string `json:"tag"`
	Date string `json:"date"`
	// Notes are the first line of what it says of itself.
	Notes string `json:"notes"`
}

var repository = regexp.MustCompile(`^[\w.-]+/[\w.-]+$`)

func init() { plugin.Agent(run) }
func main() {}

func run(call *plugin.Call) (any, error) {
	name := strings.TrimSpace(call.Prompt)
	if !repository.MatchString(name) {
		return nil, plugin.Failf(plugin.Rejected, "%q is no repository: it is like rust-lang/rust", name)
	}
	options := options{Most: 10, URL: "https://api.github.com"}
	if err := call.ReadOptions(&options); err != nil {
		return nil, err
	}
	if err := plugin.Heartbeat(map[string]any{"asked": name, "attempt": call.Attempt}); err != nil {
		return nil, err
	}
	plugin.Linef("asks for the releases of %s", name)
	response, err := plugin.Request{
		URL:    options.URL + "/repos/" + name + "/releases?per_page=" + strconv.Itoa(options.Most),
		Header: map[string]string{"accept": "application/vnd.github+json", "user-agent": "wfhost"},
	}.Send()
	if err != nil {
		return nil, err
	}
	var found []struct {
		TagName     string `json:"tag_name"`
		PublishedAt string `json:"published_at"`
		Body        string `json:"body"`
	}
	if err := response.JSON(&found); err != nil {
		return nil, err
	}
	if plugin.Cancelled() {
		return nil, plugin.Failf(plugin.Aborted, "cancelled")
	}
	releases := []release{}
	for _, each := range found {
		notes, _, _ := strings.Cut(strings.TrimSpace(each.Body), "\n")
		date, _, _ := strings.Cut(each.PublishedAt, "T")
		plugin.Chunk(each.TagName + "\n")
		releases = append(releases, release{each.TagName, date, strings.TrimSpace(notes)})
	}
	return plugin.Reply{Output: releases, Model: "github"}, nil
}
