// Command skips reads `go test -json` on standard input and prints what a person wants:
// one line a package as go test prints it, all output of what failed, and at the end
// every skipped test with its reason. It exits 1 if anything failed, 2 if the input is
// no such stream.
//
// It is test machinery: no product code may import or run it.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	failed, err := run(os.Stdin, os.Stdout)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "skips:", err)
		os.Exit(2)
	case failed:
		os.Exit(1)
	}
}

// event is one line of `go test -json`, see `go doc test2json`.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

type summary struct {
	out     io.Writer
	output  map[string][]string // by package and test, until it is known whether it is wanted
	skips   []string
	passed  int
	failed  []string
	printed error
}

func run(in io.Reader, out io.Writer) (failed bool, err error) {
	s := summary{out: out, output: map[string][]string{}}
	r := bufio.NewReader(in)
	seen := false
	for {
		line, err := r.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
				s.print(line) // what the go command itself says
			} else {
				seen = true
				s.take(e)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, fmt.Errorf("read events: %w", err)
		}
	}
	if !seen {
		return false, errors.New("no event of go test -json on standard input")
	}
	s.end()
	return len(s.failed) > 0, s.printed
}

func (s *summary) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		if e.Test == "" {
			if plain(e.Output) {
				s.print(e.Output)
			} else {
				s.output[key] = append(s.output[key], e.Output)
			}
			return
		}
		s.output[key] = append(s.output[key], e.Output)
	case "build-output":
		s.print(e.Output)
	case "pass":
		if e.Test != "" {
			s.passed++
		}
		delete(s.output, key)
	case "fail": // of a test or a package; a build-fail is followed by its package's fail
		for _, l := range s.output[key] {
			s.print(l)
		}
		delete(s.output, key)
		s.failed = append(s.failed, strings.TrimSpace(key))
	case "skip":
		if e.Test != "" {
			s.skips = append(s.skips, fmt.Sprintf("%s: %s", key, reason(s.output[key])))
		}
		delete(s.output, key)
	}
}

// plain reports whether a package's line is its result: ok, FAIL, ?, or "no test files".
func plain(line string) bool {
	for _, p := range []string{"ok  \t", "FAIL\t", "?   \t", "---", "panic:"} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return strings.Contains(line, "[no test files]") || strings.Contains(line, "coverage:")
}

// reason finds what t.Skip was told, without the source's place.
func reason(output []string) string {
	for _, l := range slices.Backward(output) {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "---") || strings.HasPrefix(l, "===") {
			continue
		}
		if _, after, ok := strings.Cut(l, ".go:"); ok {
			if _, text, ok := strings.Cut(after, ": "); ok {
				return text
			}
		}
		return l
	}
	return "no reason given"
}

func (s *summary) end() {
	s.print(fmt.Sprintf("\n%d tests passed, %d failed, %d skipped\n", s.passed, len(s.failed), len(s.skips)))
	slices.Sort(s.failed)
	for _, f := range s.failed {
		s.print("failed: " + f + "\n")
	}
	slices.Sort(s.skips)
	for _, l := range s.skips {
		s.print("skipped: " + l + "\n")
	}
}

func (s *summary) print(line string) {
	if _, err := io.WriteString(s.out, line); err != nil && s.printed == nil {
		s.printed = fmt.Errorf("print summary: %w", err)
	}
}
