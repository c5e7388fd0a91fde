// Package pluginhttp has net/http send its requests through the host, for plugins that use a library over an
// http.Client:
//
//	response, err := pluginhttp.Client.Get("https://example.com/")
//
// It is a package of its own because net/http makes a component some megabytes larger.
package pluginhttp

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/wfhost/wfhost/guest-sdk/go/plugin"
)

// Client sends what the host's configuration grants. It follows redirects, each of which has to be granted as well.
var Client = &http.Client{Transport: Transport{}}

// What sends a request.
var send = plugin.Request.Send

// Transport sends requests through the host. The deadline of a request's context is the limit for the head of the
// response and for each of its pieces; a request that is under way is not interrupted.
type Transport struct{}

// RoundTrip sends a request and waits for the head of the response.
func (Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	sent := plugin.Request{Method: request.Method, URL: request.URL.String(), Header: map[string]string{}}
	for name, values := range request.Header {
		sent.Header[name] = strings.Join(values, ", ")
	}
	if request.Body != nil {
		body, err := io.ReadAll(request.Body)
		request.Body.Close()
		if err != nil {
			return nil, err
		}
		// What is sent is the body, whatever its length was said to be.
		if len(body) > 0 || request.ContentLength != 0 {
			sent.Body = body
		}
	}
	context := request.Context()
	if err := context.Err(); err != nil {
		return nil, err
	}
	if deadline, is := context.Deadline(); is {
		sent.Timeout = max(time.Until(deadline), time.Millisecond)
	}
	response, err := send(sent)
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	for name, values := range response.Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	body := response.Body
	if request.Method == http.MethodHead {
		body.Close()
		body = io.NopCloser(bytes.NewReader(nil))
	}
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", response.Status, http.StatusText(response.Status)),
		StatusCode:    response.Status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Body:          body,
		ContentLength: -1,
		Request:       request,
	}, nil
}
