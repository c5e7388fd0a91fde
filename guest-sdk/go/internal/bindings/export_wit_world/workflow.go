// Package export_wit_world is what the generated export calls.
package export_wit_world

import (
	"github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_types"
	wit "github.com/wfhost/wfhost/guest-sdk/go/internal/wit/types"
)

// Result is how a run ends: JSON, or why it failed.
type Result = wit.Result[string, wfhost_workflow_types.Failure]

// Workflow is set before the program is called.
var Workflow func(input string) Result

// Run is the export `run`.
func Run(input string) Result {
	return Workflow(input)
}
