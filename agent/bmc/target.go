package bmc

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	// refusedWait is how long an account that was refused is not tried again: controllers
	// lock accounts.
	refusedWait = 5 * time.Minute
	// maxWait bounds the wait after failures.
	maxWait = 5 * time.Minute
	// logoutWait bounds the giving back of a session at the end.
	logoutWait = 3 * time.Second
	// maxPending bounds what waits for Sample, in answers.
	maxPending = 8
	// maxComponents bounds the parts of a target.
	maxComponents = 256
)

// sample is what one round of questions gave.
type sample struct {
	wallMs     int64
	components []*component
}

// target is a controller and who asks it. Its goroutine owns what is not guarded.
type target struct {
	Target
	started time.Duration // wait before the first question
	session *redfish
	layout  *layout
	moved   map[string]motion    // by report
	huge    map[string]time.Time // reports that were too large, and when
	known   map[string]bool      // GPUs that were seen
	answers int                  // rounds that gave something
	fails   int                  // rounds in a row that gave nothing
	waiting int                  // reports of this round that have not moved yet, and may still
	unasked bool                 // IPMI might have answered in this round

	mu      sync.Mutex // guards below
	pending []sample
	dropped uint64
	state   source.Status
}

// motion is when a report last moved: by its own clock, and by ours.
type motion struct{ newest, seen time.Time }

func newTarget(t Target) *target {
	h := fnv.New32a()
	_, _ = io.WriteString(h, t.Node) // a hash's Write does not fail
	return &target{
		Target: t, moved: map[string]motion{}, huge: map[string]time.Time{}, known: map[string]bool{}, started: time.Duration(h.Sum32()) % t.Interval,
		state: source.Status{Instrument: "bmc/" + t.Node, State: source.Unavailable, Reason: "the controller was not asked yet"},
	}
}

// run asks until the context ends, then gives the session back.
func (t *target) run(ctx context.Context, slots chan struct{}) {
	timer := time.NewTimer(t.started)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			t.end(ctx)
			return
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			t.end(ctx)
			return
		case slots <- struct{}{}:
		}
		wait := t.round(ctx)
		<-slots
		timer.Reset(wait)
	}
}

func (t *target) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutWait)
	defer cancel()
	t.leave(ctx)
}

func (t *target) leave(ctx context.Context) {
	if t.session != nil {
		t.session.logout(ctx)
		t.session = nil
	}
}

// round asks once, keeps the answer and the state, and returns how long to wait.
func (t *target) round(ctx context.Context) time.Duration {
	// A slow controller must not hold its slot for ever.
	limited, cancel := context.WithTimeout(ctx, max(maxInterval, 3*t.Timeout))
	defer cancel()
	parts, problems, err := t.ask(limited)
	if ctx.Err() != nil {
		return t.Interval
	}
	st := source.Status{Instrument: "bmc/" + t.Node, State: source.Active}
	if t.Insecure {
		problems = append(problems, "the controller's certificate is not checked (insecure): pin it by fingerprint, or name its authority in ca_file")
	}
	if err != nil {
		st.State, st.Reason = t.verdict(err)
		if t.unasked {
			st.Reason += "; IPMI is not asked without an account of its own: name it in ipmi_credentials_file, or take method dcmi"
		}
		t.fails++
	} else {
		t.fails = 0
		t.answers++
		if len(problems) > 0 {
			st.State, st.Reason = source.Degraded, strings.Join(problems, "; ")
		}
		switch {
		case len(parts) > 0 || t.waiting > 0: // reports that are made once a minute are not late yet
		case len(problems) == 0:
			st.State, st.Reason = source.Unavailable, "the controller has neither reports of GPUs nor the power of the node"
		default:
			st.State = source.Stalled
		}
	}
	t.keep(parts, st)
	if refused(err) {
		return max(refusedWait, t.Interval)
	}
	wait := t.Interval << min(t.fails, 6)
	wait = max(t.Interval, min(wait, maxWait))
	return wait - time.Duration(rand.Int64N(int64(wait)/10+1))
}

func (t *target) keep(parts []*component, st source.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = st
	if len(parts) == 0 {
		return
	}
	if len(t.pending) >= maxPending {
		t.pending = slices.Delete(t.pending, 0, 1)
		t.dropped++
	}
	t.pending = append(t.pending, sample{time.Now().UnixMilli(), parts})
}

// taken hands over what arrived since the last call.
func (t *target) taken(into []sample) ([]sample, source.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	into = append(into, t.pending...)
	clear(t.pending)
	t.pending = t.pending[:0]
	return into, t.state
}

// ask asks by the target's method. problems say what is missing of an answer.
func (t *target) ask(ctx context.Context) (parts []*component, problems []string, err error) {
	t.waiting, t.unasked = 0, false
	if t.Method == MethodDCMI {
		return t.askDCMI(ctx)
	}
	parts, problems, err = t.askRedfish(ctx)
	if err != nil && status(err) == http.StatusUnauthorized && t.answers > 0 {
		// The session has run out, or the controller has forgotten it: one new one.
		t.leave(ctx)
		parts, problems, err = t.askRedfish(ctx)
	}
	if err != nil && (status(err) == http.StatusUnauthorized || status(err) == 0 && !malformed(err)) {
		t.leave(ctx) // whatever it is, it is not trusted any more
	}
	if t.Method != MethodAuto || ctx.Err() != nil {
		return parts, problems, err
	}
	switch {
	case err != nil && (status(err) == http.StatusNotFound || strings.Contains(err.Error(), "connection refused")):
		// Who takes the controller's address can refuse connections, whatever certificate is
		// wanted: the account of Redfish must not go to IPMI for that.
		if t.unasked = !t.byIPMI(); t.unasked {
			return nil, nil, err
		}
		byIPMI, said, ierr := t.askDCMI(ctx)
		if ierr != nil {
			return nil, nil, fmt.Errorf("%w; nor IPMI: %w", err, ierr)
		}
		return byIPMI, append(said, "no Redfish answers, only IPMI: of the controller's GPUs nothing is seen"), nil
	case err == nil && len(parts) == 0 && len(problems) == 0 && t.waiting == 0 && t.byIPMI():
		return t.askDCMI(ctx)
	}
	return parts, problems, err
}

func (t *target) askDCMI(ctx context.Context) ([]*component, []string, error) {
	watts, err := dcmiWatts(ctx, t.Target)
	if err != nil {
		return nil, nil, err
	}
	c := newComponent("node", "dcmi")
	if !c.setPower(watts) {
		return nil, nil, fmt.Errorf("ask DCMI for power: %v W is no power of a host", watts)
	}
	return []*component{c}, nil, nil
}

// askRedfish reads the reports, or the sensors where there are none.
func (t *target) askRedfish(ctx context.Context) (parts []*component, problems []string, err error) {
	if t.session == nil {
		if t.session, err = login(ctx, t.Target); err != nil {
			t.session = nil
			return nil, nil, err
		}
		t.layout = nil
	}
	now := time.Now()
	if t.layout == nil || now.Sub(t.layout.at) >= layoutFor || len(t.layout.absent) > 0 && now.Sub(t.layout.at) >= 4*t.Interval {
		l, lerr := t.session.explore(ctx, now)
		if lerr != nil {
			return nil, nil, lerr
		}
		t.layout = l
	}
	byName := map[string]*component{}
	for _, kind := range t.layout.absent {
		problems = append(problems, "the controller has no report "+kind+lacks(kind))
	}
	for _, path := range t.layout.reports {
		said, rerr := "", errTooLarge
		if at, ok := t.huge[path]; !ok || now.Sub(at) >= min(layoutFor, 40*t.Interval) {
			delete(t.huge, path)
			said, rerr = t.readReport(ctx, path, now, byName)
			if errors.Is(rerr, errTooLarge) {
				t.huge[path] = now
			}
		}
		if rerr != nil {
			if fatal(rerr) {
				return nil, nil, rerr
			}
			if status(rerr) == http.StatusNotFound {
				t.layout.at = time.Time{} // look again
			}
			problems = append(problems, fmt.Sprintf("report %s cannot be read: %s%s", last(path), brief(rerr), lacks(kindOf(path))))
		}
		if said != "" {
			problems = append(problems, said)
		}
	}
	if len(t.layout.reports) == 0 {
		for _, p := range t.layout.gpus {
			c, serr := t.session.sensors(ctx, p)
			if serr != nil {
				return nil, nil, serr
			}
			if !c.empty() && len(byName) < maxComponents {
				byName[c.name] = c
			}
		}
	}
	problems = append(problems, t.gone(byName)...)
	node, err := t.session.nodePower(ctx, t.layout)
	switch {
	case err != nil && fatal(err):
		return nil, nil, err
	case err != nil:
		problems = append(problems, "the node's power cannot be read: "+brief(err))
		t.layout.at = time.Time{}
	case node != nil:
		byName["node"] = node
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		c := byName[name]
		c.uuid = t.layout.uuids[name]
		if c.finish(); !c.empty() {
			parts = append(parts, c)
		}
	}
	return parts, problems, nil
}

// lacks says what is not seen without a report.
func lacks(kind string) string {
	switch kind {
	case gpmReport:
		return ": no tensor or SM activity of its GPUs (it comes and goes with the tray's management controller)"
	case envReport:
		return ": no power, energy or temperature of its GPUs"
	}
	return ""
}

// readReport puts what is new in a report into parts. A report that has not moved gives
// nothing: its values were told before.
func (t *target) readReport(ctx context.Context, path string, now time.Time, parts map[string]*component) (problem string, err error) {
	var rep report
	date, err := t.session.get(ctx, path, func(body io.Reader) (rerr error) {
		rep, rerr = readReport(body)
		return rerr
	})
	if err != nil {
		return "", err
	}
	newest, was := rep.newest(), t.moved[path]
	name := last(path)
	switch {
	case newest.IsZero():
		problem = "report " + name + " carries no time, so that old values look as new ones"
	case !was.newest.IsZero() && !newest.After(was.newest) && !newest.Before(was.newest.Add(-maxWait)):
		if now.Sub(was.seen) >= t.stallAfter() {
			return fmt.Sprintf("report %s is stalled: it says the same time again and again", name), nil
		}
		t.waiting++
		return "", nil
	case !date.IsZero() && date.Sub(newest) >= t.stallAfter()+maxWait:
		t.moved[path] = motion{newest, was.seen}
		return fmt.Sprintf("report %s is stalled: it is older than %s by the controller's own clock", name, t.stallAfter()+maxWait), nil
	}
	t.moved[path] = motion{newest, now}
	find := func(part string) *component {
		c := parts[part]
		if c == nil {
			c = newComponent(part, "redfish_report")
			if len(parts) < maxComponents {
				parts[part] = c
			}
		}
		return c
	}
	old := 0
	for _, m := range rep.metrics {
		at := m.at
		if at.IsZero() {
			at = rep.at
		}
		if newest.Sub(at) >= t.stallAfter() && !at.IsZero() {
			old++
			continue
		}
		if c := take(m.property, m.value, &rep.scratch, find); c != nil {
			c.stamp(at)
		}
	}
	switch lost := old + rep.stale; {
	case lost > 0:
		problem = fmt.Sprintf("%d values of report %s are stale and left out", lost, name)
	case rep.unread > 0 && len(rep.metrics) == 0:
		problem = fmt.Sprintf("report %s has names of %d values and no value: the GPUs may be without power, or in reset", name, rep.unread)
	}
	return problem, nil
}

// stallAfter is how long a report may stand still: some are made once a minute.
func (t *target) stallAfter() time.Duration { return min(12*t.Interval, maxWait) }

// gone says which GPUs were there and are not.
func (t *target) gone(now map[string]*component) []string {
	var lost []string
	for name := range now {
		if gpuIn(name) != "" && len(t.known) < maxComponents {
			t.known[name] = true
		}
	}
	some := false
	for name := range t.known {
		if now[name] == nil {
			lost = append(lost, name)
		} else {
			some = true
		}
	}
	if len(lost) == 0 || !some { // all at once: the report has not moved, which is said elsewhere
		return nil
	}
	slices.Sort(lost)
	return []string{fmt.Sprintf("%d GPUs that were there are not: %s", len(lost), strings.Join(lost[:min(len(lost), 8)], ", "))}
}

// malformed reports whether an answer came and was not understood.
func malformed(err error) bool {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	return errors.As(err, &syntax) || errors.As(err, &kind) || errors.Is(err, errShape) || errors.Is(err, errTooLarge) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

func refused(err error) bool {
	code := status(err)
	return code == http.StatusUnauthorized || code == http.StatusForbidden || errors.Is(err, errRefused)
}

// brief says what a failed request means, without what the controller wrote: that may hold
// anything.
func brief(err error) string {
	var netErr net.Error
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var pin *pinError
	switch code := status(err); {
	case code != 0:
		return fmt.Sprintf("it answers %d (%s)", code, http.StatusText(code))
	case errors.As(err, &pin):
		return pin.Error()
	case errors.As(err, &authority):
		return "its certificate is signed by nobody that is trusted here: set ca_file, or fingerprint"
	case errors.As(err, &name): // the names in it are the controller's words
		return "its certificate is for other names than that in address: set fingerprint, or address as the certificate has it"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired, or is not valid yet, by this host's clock: renew it, or set fingerprint"
	case errors.As(err, &invalid):
		return "its certificate is not valid: renew it, or set fingerprint"
	case errors.Is(err, errTooLarge):
		return errTooLarge.Error()
	case errors.Is(err, errAway):
		return errAway.Error()
	case malformed(err):
		return "its answer is not the JSON that belongs there"
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout():
		return "it does not answer in time"
	}
	return oneLine(err)
}

// verdict is the state of a target that gave nothing.
func (t *target) verdict(err error) (source.State, string) {
	where := "the controller at " + t.Address
	if t.Address == Local {
		where = "the host's own controller"
	}
	state := source.Unavailable
	if t.answers > 0 {
		state = source.Lost
	}
	var netErr net.Error
	switch {
	case errors.Is(err, errRefused):
		return source.Unavailable, fmt.Sprintf("%s refuses the account in %s: %s; it is tried again in %s, as controllers lock accounts", where, t.ipmiFile(), errRefused, refusedWait)
	case refused(err):
		return source.Unavailable, fmt.Sprintf("%s refuses the account in %s: %s; it is tried again in %s, as controllers lock accounts", where, t.CredentialsFile, brief(err), refusedWait)
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout():
		return source.Stalled, fmt.Sprintf("%s does not answer within %s", where, t.Timeout)
	}
	return state, where + " cannot be read: " + brief(err)
}
