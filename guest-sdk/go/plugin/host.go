package plugin

import "time"

// The host's functions. In a component they are those of the bindings; tests have their own.
var host struct {
	chunk      func(text string)
	line       func(text string)
	transcript func(event string)
	heartbeat  func(at string)
	cancelled  func() bool
	send       func(method, url string, header [][2]string, body []byte, timeout time.Duration) (hostResponse, error)
}

// A response of the host, whose body is read as it comes.
type hostResponse interface {
	status() int
	headers() [][2]string
	// The next piece; nil at the end.
	read() ([]byte, error)
	close()
}
