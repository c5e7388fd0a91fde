// Package wfhosttest makes the scenarios of a workflow tests of `go test`.
package wfhosttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Scenarios runs a test for each scenario of the project in the directory of the test: wfhost-test.toml and
// scenarios/*.toml; without any, one of what every workflow has to keep.
//
//	func TestScenarios(t *testing.T) { wfhosttest.Scenarios(t) }
//
// Each runs `wfhost test`, and fails with the story of what went wrong. The binary is the wfhost on the PATH, or
// the one that WFHOST_BIN names. The project is built once. The result is never taken from Go's cache.
func Scenarios(t *testing.T) {
	t.Helper()
	project, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	module := strings.TrimSpace(wfhost(t, "build", project))
	neverCache(t, project)
	scenarios := find(t, project)
	for _, path := range scenarios {
		name := strings.TrimSuffix(filepath.Base(path), ".toml")
		t.Run(name, func(t *testing.T) { wfhost(t, "test", module, "--scenario", path) })
	}
	if len(scenarios) == 0 {
		t.Run("usual", func(t *testing.T) { wfhost(t, "test", module) })
	}
}

// Go keeps the result of a test until a file or a variable changes that the test has read. It does not see what the
// programs read that this one runs: the binary, children, WFHOST_EXECUTIONS. So a file is read that is new at the end
// of the test, as its time is that of tomorrow: with such a file Go keeps nothing.
func neverCache(t *testing.T, project string) {
	t.Helper()
	path := filepath.Join(project, "target", "wfhost", "tested")
	tomorrow := time.Now().AddDate(0, 0, 1)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, nil, 0o644)
	}
	if err == nil {
		err = os.Chtimes(path, tomorrow, tomorrow)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The files that `wfhost test` takes if none is named, in its order.
func find(t *testing.T, project string) []string {
	t.Helper()
	var found []string
	if first := filepath.Join(project, "wfhost-test.toml"); isFile(first) {
		found = append(found, first)
	}
	// In the order of their names.
	entries, err := os.ReadDir(filepath.Join(project, "scenarios"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), ".toml") {
			found = append(found, filepath.Join(project, "scenarios", entry.Name()))
		}
	}
	return found
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// Runs wfhost, and gives its stdout. What it says else is the reason of a failure.
func wfhost(t *testing.T, args ...string) string {
	t.Helper()
	binary := os.Getenv("WFHOST_BIN")
	if binary == "" {
		binary = "wfhost"
	}
	var out, all strings.Builder
	command := exec.Command(binary, args...)
	command.Stdout, command.Stderr = &out, &all
	if err := command.Run(); err != nil {
		if _, ended := err.(*exec.ExitError); !ended {
			t.Fatalf("%s cannot be run: %v\ninstall wfhost, or name the binary by WFHOST_BIN", binary, err)
		}
		t.Fatalf("%s%s", out.String(), all.String())
	}
	return out.String()
}
