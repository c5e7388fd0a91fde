package wfhost

// The host's functions. In a component they are those of the bindings; tests have their own.
var host struct {
	startAgent  func(request agentRequest) hostStep
	sleepUntil  func(atMillis uint64) hostStep
	sleepFor    func(millis uint64) hostStep
	startSignal func(name string, timeout *uint64) hostStep
	startAsk    func(question askRequest) hostStep
	send        func(run, name, payload string) *Failure
	post        func(name, payload string)
	startChild  func(request childRequest) hostStep
	newSet      func() hostSet
	info        func() RunInfo
	now         func() uint64
	random      func() uint64
	budget      func() Spending
	patched     func(id string) bool
	cancelled   func() bool
	phase       func(title string)
	publish     func(key, value string)
	continueAs  func(input string)
	write       func(level level, message string, fields [][2]string)
	panicked    func(message string)
}

// An operation that the host carries out.
type hostStep interface {
	id() uint64
	get() (string, *Failure)
	// Cancels it if it is not done.
	drop()
}

// The host's set of steps, each under a tag.
type hostSet interface {
	add(step hostStep, tag uint64)
	remove(tag uint64)
	// Waits for one that is done, and removes it.
	next() uint64
}

type agentRequest struct {
	prompt                    string
	providers                 []string
	input, schema, options    *string
	model, session, workspace string
	label, group              string
	retry                     *Retry
	limits                    *Limits
	cache                     *Cache
}

type askRequest struct {
	prompt          string
	choices         []string
	schema, details *string
	timeout         *uint64
}

type childRequest struct {
	module, input, id string
	abandon           bool
	labels            [][2]string
}

type level uint8

const (
	levelTrace level = iota
	levelDebug
	levelInfo
	levelWarn
	levelError
)
