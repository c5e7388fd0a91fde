package pluginhttp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wfhost/wfhost/guest-sdk/go/plugin"
)

func TestRequestsGoThroughTheHost(t *testing.T) {
	var sent []string
	send = func(request plugin.Request) (*plugin.Response, error) {
		sent = append(sent, fmt.Sprintf("%s %s %v %q", request.Method, request.URL, request.Header, request.Body))
		if request.Timeout > time.Minute {
			t.Fatal(request.Timeout)
		}
		if request.URL == "https://a.org/denied" {
			return nil, plugin.Failf(plugin.Rejected, "the host denies the request")
		}
		response := &plugin.Response{Status: 200, Header: plugin.Header{"set-cookie": {"a=1", "b=2"}}}
		response.Body = io.NopCloser(strings.NewReader("hello"))
		if request.URL == "https://a.org/old" {
			response.Status, response.Header = 302, plugin.Header{"location": {"/new"}}
		}
		return response, nil
	}
	within, end := context.WithTimeout(context.Background(), time.Minute)
	defer end()
	do := func(method, url string, body io.Reader) (string, error) {
		request, err := http.NewRequestWithContext(within, method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		request.Header["X-A"] = []string{"1", "2"}
		response, err := Client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return fmt.Sprint(response.Status, " ", response.Cookies(), " ", string(text)), err
	}
	for _, test := range []struct{ method, path, body, want string }{
		{"POST", "/", "body", "200 OK [a=1 b=2] hello"},
		{"GET", "/old", "", "200 OK [a=1 b=2] hello"},
		{"HEAD", "/", "", "200 OK [a=1 b=2] "},
	} {
		var body io.Reader
		if test.body != "" {
			body = strings.NewReader(test.body)
		}
		if got, err := do(test.method, "https://a.org"+test.path, body); got != test.want || err != nil {
			t.Fatal(got, err)
		}
	}
	want := []string{
		`POST https://a.org/ map[X-A:1, 2] "body"`,
		`GET https://a.org/old map[X-A:1, 2] %!q(<nil>)`,
		`GET https://a.org/new map[Referer:https://a.org/old X-A:1, 2] %!q(<nil>)`,
		`HEAD https://a.org/ map[X-A:1, 2] %!q(<nil>)`,
	}
	if strings.Join(sent, "\n") != strings.Join(want, "\n") {
		t.Fatal(strings.Join(sent, "\n"))
	}
	if _, err := do("GET", "https://a.org/denied", nil); err == nil || !strings.Contains(err.Error(), "denies") {
		t.Fatal(err)
	}
	end()
	if _, err := do("GET", "https://a.org/", nil); err == nil || len(sent) != 5 {
		t.Fatal("what has ended is not sent", err)
	}
}
