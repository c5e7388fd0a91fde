// Package export_wfhost_plugin_agent is what the generated export calls.
package export_wfhost_plugin_agent

import (
	"github.com/wfhost/wfhost/guest-sdk/go/internal/plugin/wfhost_plugin_types"
	wit "github.com/wfhost/wfhost/guest-sdk/go/internal/wit/types"
)

// Result is how an attempt ends: an answer, or why there is none.
type Result = wit.Result[wfhost_plugin_types.Reply, wfhost_plugin_types.Failure]

// Agent is set before the program is called.
var Agent func(call wfhost_plugin_types.Call) Result

// Run is the export `run` of the interface `agent`.
func Run(call wfhost_plugin_types.Call) Result {
	return Agent(call)
}
