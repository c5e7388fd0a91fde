package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Characters of an answer that a failure shows.
const shown = 300

// Request is an HTTP request, which is sent as far as the host's configuration grants it.
type Request struct {
	// Method is GET if it is empty.
	Method string
	URL    string
	// Header has a value for each name.
	Header map[string]string
	// Body: bytes and text are sent as they are, anything else as JSON; nil is none.
	Body any
	// Timeout is the limit for the head of the response, and then for each of its pieces; 0 is none but the call's.
	Timeout time.Duration
}

// Get is a GET request.
func Get(url string) Request {
	return Request{Method: "GET", URL: url}
}

// Post is a POST request. Bytes and text are sent as they are, anything else as JSON.
func Post(url string, body any) Request {
	return Request{Method: "POST", URL: url, Body: body}
}

// Send sends it and waits for the head of the response, which is of any status. Redirects are not followed. A request
// that is denied or cannot be sent is the failure Rejected, one that nobody answers is Unavailable.
func (request Request) Send() (*Response, error) {
	method := request.Method
	if method == "" {
		method = "GET"
	}
	var header [][2]string
	hasType := false
	for name, value := range request.Header {
		header = append(header, [2]string{name, value})
		hasType = hasType || strings.EqualFold(name, "content-type")
	}
	// Go's maps have no order of their own.
	slices.SortFunc(header, func(one, other [2]string) int { return slices.Compare(one[:], other[:]) })
	var body []byte
	switch given := request.Body.(type) {
	case nil:
	case []byte:
		body = append([]byte{}, given...)
	case string:
		body = []byte(given)
	default:
		text, err := json.Marshal(given)
		if err != nil {
			return nil, Failf(Rejected, "the request cannot be sent: %v", err)
		}
		body = text
		if !hasType {
			header = append(header, [2]string{"content-type", "application/json"})
		}
	}
	response, err := host.send(method, request.URL, header, body, request.Timeout)
	if err != nil {
		return nil, err
	}
	named := make(Header)
	for _, pair := range response.headers() {
		name := strings.ToLower(pair[0])
		named[name] = append(named[name], pair[1])
	}
	return &Response{Status: response.status(), Header: named, Body: &content{response: response}}, nil
}

// Header has the values of headers by their names in lower case.
type Header map[string][]string

// Get gives the first value of a header, by a name in any case; empty if there is none.
func (header Header) Get(name string) string {
	if values := header[strings.ToLower(name)]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// Response is a response of any status.
type Response struct {
	Status int
	Header Header
	// Body is read as it comes.
	Body io.ReadCloser
}

// Bytes reads the whole body.
func (response *Response) Bytes() ([]byte, error) {
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// Text reads the whole body.
func (response *Response) Text() (string, error) {
	bytes, err := response.Bytes()
	return string(bytes), err
}

// JSON reads the whole body into a value, if the status is a success (see Successful). A body that does not fit is the
// failure InvalidOutput.
func (response *Response) JSON(into any) error {
	if err := response.Successful(); err != nil {
		return err
	}
	bytes, err := response.Bytes()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(bytes, into); err != nil {
		return Failf(InvalidOutput, "the service answered something unexpected (%v): %s", err, shorten(string(bytes)))
	}
	return nil
}

// Successful is nil if the status is from 200 to 299, otherwise what another status means: 401 to 403 disable the
// provider, 429 and the like are retried when the service says, other 4xx are rejected, the rest is retried.
func (response *Response) Successful() error {
	status := response.Status
	if status >= 200 && status < 300 {
		return nil
	}
	failure := &Failure{Kind: Unavailable, Message: fmt.Sprintf("the service answered %d", status)}
	if text, err := response.Text(); err == nil && text != "" {
		failure.Message += ": " + shorten(text)
	}
	switch {
	case status >= 401 && status <= 403:
		failure.Kind, failure.Auth = Rejected, true
	case status == 408:
		failure.Kind = TimedOut
	case status == 409, status == 423, status == 425, status == 429:
	case status >= 300 && status < 500:
		failure.Kind = Rejected
	}
	after, err := strconv.ParseFloat(strings.TrimSpace(response.Header.Get("retry-after")), 64)
	if err == nil && !failure.Auth && after >= 0 && after < 1e9 {
		failure.RetryAfter = time.Duration(after * float64(time.Second))
	}
	return failure
}

// One line of at most so many characters.
func shorten(text string) string {
	line := []rune(strings.Join(strings.Fields(text), " "))
	if len(line) > shown {
		return string(line[:shown]) + "…"
	}
	return string(line)
}

// The body of a response.
type content struct {
	response hostResponse
	piece    []byte
	err      error
}

// Read reads what has come, at least one byte.
func (body *content) Read(into []byte) (int, error) {
	for len(body.piece) == 0 {
		if body.err != nil {
			return 0, body.err
		}
		if len(into) == 0 {
			return 0, nil
		}
		body.piece, body.err = body.response.read()
		if body.piece == nil && body.err == nil {
			body.err = io.EOF
		}
	}
	count := copy(into, body.piece)
	body.piece = body.piece[count:]
	return count, nil
}

var errClosed = errors.New("the body was closed")

// Close gives the response back to the host.
func (body *content) Close() error {
	if !errors.Is(body.err, errClosed) {
		body.response.close()
		body.piece, body.err = nil, errClosed
	}
	return nil
}
