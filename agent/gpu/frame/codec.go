package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"unicode/utf8"
)

// ErrCorrupt is what a frame gives that cannot be: the two sides have lost each other.
var ErrCorrupt = errors.New("corrupt frame")

const headerBytes = 9

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Reader reads frames. It keeps one buffer.
type Reader struct {
	r    io.Reader
	head [headerBytes]byte
	body []byte
}

// NewReader returns a reader of frames; r should be buffered.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next frame. Its body is the reader's, until the next Next. At the end of
// the stream the error is io.EOF, inside of a frame io.ErrUnexpectedEOF, both wrapped.
func (r *Reader) Next() (Type, []byte, error) {
	if _, err := io.ReadFull(r.r, r.head[:]); err != nil {
		return 0, nil, fmt.Errorf("read frame: %w", err)
	}
	n := binary.LittleEndian.Uint32(r.head[:])
	if n > MaxBody {
		return 0, nil, fmt.Errorf("read frame of %d bytes: %w", n, ErrCorrupt)
	}
	if cap(r.body) < int(n) {
		r.body = make([]byte, max(int(n), 512))
	}
	body := r.body[:n]
	if _, err := io.ReadFull(r.r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, fmt.Errorf("read frame's body: %w", err)
	}
	if crc := checksum(r.head[4:5], body); crc != binary.LittleEndian.Uint32(r.head[5:]) {
		return 0, nil, fmt.Errorf("check frame of type %d: %w", r.head[4], ErrCorrupt)
	}
	return Type(r.head[4]), body, nil
}

func checksum(typ, body []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, typ), castagnoli, body)
}

// begin appends a header to be filled by end.
func begin(dst []byte, t Type) []byte {
	return append(dst, 0, 0, 0, 0, byte(t), 0, 0, 0, 0)
}

func end(dst []byte, at int) []byte {
	body := dst[at+headerBytes:]
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(body)))
	binary.LittleEndian.PutUint32(dst[at+5:], checksum(dst[at+4:at+5], body))
	return dst
}

func appendString(dst []byte, s string) []byte {
	s = Clean(s)
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func appendStrings(dst []byte, list []string) []byte {
	list = list[:min(len(list), MaxCapabilities)]
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for _, s := range list {
		dst = appendString(dst, s)
	}
	return dst
}

// Clean makes a string fit for a frame: valid UTF-8 without control characters, at most
// MaxText bytes. What the library calls a string is no promise.
func Clean(s string) string {
	good := len(s) <= MaxText && utf8.ValidString(s)
	for i := 0; good && i < len(s); i++ {
		good = s[i] >= ' ' && s[i] != 0x7f
	}
	if good {
		return s
	}
	out := make([]byte, 0, min(len(s), MaxText))
	for _, c := range s { // a byte that is no UTF-8 gives U+FFFD
		if c < ' ' || c == 0x7f {
			c = '?'
		}
		if len(out)+utf8.RuneLen(c) > MaxText {
			break
		}
		out = utf8.AppendRune(out, c)
	}
	return string(out)
}

// cursor reads a body. The first error stays, and every later read gives zero.
type cursor struct {
	b   []byte
	bad string
}

func (c *cursor) fail(what string) {
	if c.bad == "" {
		c.bad = what
	}
	c.b = nil
}

func (c *cursor) uint(what string, limit uint64) uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 || v > limit {
		c.fail(what)
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) int(what string) int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.fail(what)
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) small(what string, low, high int64) int {
	v := c.int(what)
	if v < low || v > high {
		c.fail(what)
		return 0
	}
	return int(v)
}

func (c *cursor) bool(what string) bool { return c.uint(what, 1) == 1 }

func (c *cursor) string(what string) string {
	n := c.uint(what, MaxText)
	if uint64(len(c.b)) < n {
		c.fail(what)
		return ""
	}
	s := string(c.b[:n])
	c.b = c.b[n:]
	if Clean(s) != s {
		c.fail(what)
		return ""
	}
	return s
}

func (c *cursor) strings(what string) []string {
	n := c.uint(what, MaxCapabilities)
	var list []string
	for range n {
		s := c.string(what)
		if c.bad != "" {
			return nil
		}
		list = append(list, s)
	}
	return list
}

func (c *cursor) end(t string) error {
	if c.bad == "" && len(c.b) > 0 {
		c.bad = "bytes left over"
	}
	if c.bad != "" {
		return fmt.Errorf("decode %s: %s: %w", t, c.bad, ErrCorrupt)
	}
	return nil
}

const (
	maxGPU      = MaxGPUs - 1
	maxInstance = 1 << 10 // numbers of instances have gaps
)

func (c *cursor) instance() int { return c.small("instance", WholeGPU, maxInstance) }

// again is string, and gives old where it is the same: what comes every time costs nothing.
func (c *cursor) again(what, old string) string {
	n, size := binary.Uvarint(c.b)
	if size > 0 && n == uint64(len(old)) && n <= uint64(len(c.b)-size) && string(c.b[size:size+int(n)]) == old {
		c.b = c.b[size+int(n):]
		return old
	}
	return c.string(what)
}

// AppendRequest appends a request as a frame.
func AppendRequest(dst []byte, q *Request) []byte {
	at := len(dst)
	dst = begin(dst, q.Type)
	switch q.Type {
	case TypeHello:
		dst = binary.AppendUvarint(dst, uint64(q.Version))
	case TypeSample, TypeDescribe:
		dst = binary.AppendUvarint(dst, q.Seq)
		dst = binary.AppendVarint(dst, q.BootMs)
		dst = binary.AppendUvarint(dst, q.Sample)
		for _, mask := range [...]uint64{q.Processes, q.Health, q.Burst, q.BurstGPM} {
			dst = binary.AppendUvarint(dst, mask)
		}
		dst = appendBool(dst, q.Events)
	}
	return end(dst, at)
}

// DecodeRequest decodes the body of a request.
func DecodeRequest(t Type, body []byte, q *Request) error {
	c := cursor{b: body}
	*q = Request{Type: t}
	switch t {
	case TypeHello:
		q.Version = uint32(c.uint("version", 1<<32-1))
	case TypeSample, TypeDescribe:
		q.Seq = c.uint("seq", 1<<64-1)
		q.BootMs = c.int("clock")
		for _, mask := range [...]*uint64{&q.Sample, &q.Processes, &q.Health, &q.Burst, &q.BurstGPM} {
			*mask = c.uint("mask", 1<<64-1)
		}
		if q.BurstGPM&^q.Burst != 0 {
			c.fail("a burst of GPM alone")
		}
		q.Events = c.bool("events")
	case TypeStop:
	default:
		return fmt.Errorf("decode request of type %d: %w", t, ErrCorrupt)
	}
	return c.end("request")
}

// AppendWelcome appends a frame.
func AppendWelcome(dst []byte, w *Welcome) []byte {
	at := len(dst)
	dst = begin(dst, TypeWelcome)
	dst = binary.AppendUvarint(dst, uint64(w.Version))
	dst = binary.AppendVarint(dst, int64(w.Code))
	dst = appendString(dst, w.Text)
	dst = appendString(dst, w.DriverVersion)
	dst = appendString(dst, w.NVMLVersion)
	dst = appendString(dst, w.LibraryPath)
	dst = binary.AppendVarint(dst, int64(w.GPUs))
	dst = appendBool(dst, w.GPM)
	dst = appendStrings(dst, w.Missing)
	facts := w.Facts[:min(len(w.Facts), MaxFacts)]
	dst = binary.AppendUvarint(dst, uint64(len(facts)))
	for _, f := range facts {
		dst = appendString(appendString(dst, f.Name), f.Value)
	}
	return end(dst, at)
}

// DecodeWelcome decodes a body. Of another version only Version is read.
func DecodeWelcome(body []byte, w *Welcome) error {
	c := cursor{b: body}
	*w = Welcome{Version: uint32(c.uint("version", 1<<32-1))}
	if c.bad == "" && w.Version != Version {
		return nil
	}
	w.Code = c.small("code", -1<<31, 1<<31-1)
	w.Text, w.DriverVersion = c.string("text"), c.string("driver version")
	w.NVMLVersion, w.LibraryPath = c.string("library version"), c.string("library path")
	w.GPUs = c.small("number of GPUs", 0, MaxGPUs)
	w.GPM = c.bool("gpm")
	w.Missing = c.strings("missing functions")
	for range c.uint("number of facts", MaxFacts) {
		f := Fact{Name: c.string("fact"), Value: c.string("fact")}
		if c.bad != "" {
			break
		}
		w.Facts = append(w.Facts, f)
	}
	return c.end("welcome")
}

// AppendDevice appends a frame.
func AppendDevice(dst []byte, d *Device) []byte {
	at := len(dst)
	dst = begin(dst, TypeDevice)
	dst = binary.AppendVarint(dst, int64(d.Index))
	for _, s := range [...]string{d.UUID, d.Name, d.PCIBusID, d.DriverVersion, d.VBIOSVersion} {
		dst = appendString(dst, s)
	}
	dst = binary.AppendVarint(dst, d.MemTotalBytes)
	dst = binary.AppendVarint(dst, d.PowerLimitMW)
	dst = binary.AppendVarint(dst, d.SMClockMaxMHz)
	dst = binary.AppendVarint(dst, int64(d.MIGMode))
	dst = binary.AppendVarint(dst, int64(d.NVLinks))
	dst = appendBool(dst, d.GPM)
	dst = appendStrings(dst, d.Capabilities)
	for _, s := range [...]string{d.Serial, d.BoardPart, d.Architecture, d.ComputeCapability, d.FabricClusterUUID, d.CCMode, d.GSPVersion} {
		dst = appendString(dst, s)
	}
	dst = binary.AppendVarint(dst, d.FabricClique)
	dst = binary.AppendVarint(dst, int64(d.ECCMode))
	for _, v := range [...]int{d.SMs, d.PCIeGenMax, d.PCIeWidthMax, d.ModuleID, d.Minor} {
		dst = binary.AppendVarint(dst, int64(v))
	}
	dst = appendBool(dst, d.Whole)
	return end(dst, at)
}

// DecodeDevice decodes a body.
func DecodeDevice(body []byte, d *Device) error {
	c := cursor{b: body}
	*d = Device{Index: c.small("index", 0, maxGPU)}
	for _, s := range [...]*string{&d.UUID, &d.Name, &d.PCIBusID, &d.DriverVersion, &d.VBIOSVersion} {
		*s = c.string("text")
	}
	d.MemTotalBytes, d.PowerLimitMW, d.SMClockMaxMHz = c.int("memory"), c.int("power limit"), c.int("clock")
	d.MIGMode = c.small("mig mode", -1, 1)
	d.NVLinks = c.small("links", -1, 1<<10)
	d.GPM = c.bool("gpm")
	d.Capabilities = c.strings("capabilities")
	for _, s := range [...]*string{&d.Serial, &d.BoardPart, &d.Architecture, &d.ComputeCapability, &d.FabricClusterUUID, &d.CCMode, &d.GSPVersion} {
		*s = c.string("text")
	}
	d.FabricClique = c.int("clique")
	d.ECCMode = c.small("ecc mode", -1, 1)
	for _, v := range [...]*int{&d.SMs, &d.PCIeGenMax, &d.PCIeWidthMax, &d.ModuleID, &d.Minor} {
		*v = c.small("property", -1, 1<<20)
	}
	d.Whole = c.bool("whole")
	return c.end("device")
}

const allMetrics = 1<<NumMetrics - 1

// AppendReading appends a frame.
func AppendReading(dst []byte, r *Reading) []byte {
	at := len(dst)
	dst = begin(dst, TypeReading)
	dst = binary.AppendVarint(dst, int64(r.GPU))
	dst = binary.AppendVarint(dst, int64(r.GI))
	dst = binary.AppendUvarint(dst, r.Seq)
	dst = binary.AppendVarint(dst, r.ElapsedUs)
	dst = binary.AppendVarint(dst, r.TookUs)
	dst = binary.AppendVarint(dst, int64(r.Calls))
	present := r.Present & allMetrics
	dst = binary.AppendUvarint(dst, present)
	dst = binary.AppendUvarint(dst, r.FromGPM&present)
	for ; present != 0; present &= present - 1 {
		dst = binary.AppendVarint(dst, r.Values[bits.TrailingZeros64(present)])
	}
	return end(dst, at)
}

// DecodeReading decodes a body.
func DecodeReading(body []byte, r *Reading) error {
	c := cursor{b: body}
	*r = Reading{GPU: c.small("gpu", 0, maxGPU), GI: c.instance(), Seq: c.uint("seq", 1<<64-1)}
	r.ElapsedUs, r.TookUs = c.int("elapsed"), c.int("took")
	if r.ElapsedUs < 0 || r.TookUs < 0 {
		c.fail("negative duration")
	}
	r.Calls = c.small("calls", 0, 1<<20)
	present := c.uint("presence", allMetrics)
	fromGPM := c.uint("sources", allMetrics)
	if fromGPM&^present != 0 {
		c.fail("source of an absent value")
	}
	r.Present, r.FromGPM = present, fromGPM
	for ; present != 0 && c.bad == ""; present &= present - 1 {
		r.Values[bits.TrailingZeros64(present)] = c.int("value")
	}
	return c.end("reading")
}

// AppendProcesses appends a frame; of more than MaxProcesses it takes the first.
func AppendProcesses(dst []byte, p *Processes) []byte {
	at := len(dst)
	dst = begin(dst, TypeProcesses)
	dst = binary.AppendVarint(dst, int64(p.GPU))
	dst = binary.AppendUvarint(dst, p.Seq)
	dst = appendBool(dst, p.Known)
	list := p.List[:min(len(p.List), MaxProcesses)]
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for _, v := range list {
		dst = binary.AppendVarint(dst, int64(v.PID))
		dst = binary.AppendVarint(dst, v.UsedBytes)
		if len(v.Instance) > MaxInstanceID {
			v.Instance = "" // no id that there is
		}
		dst = appendString(dst, v.Instance)
	}
	dst = appendString(dst, p.Why)
	return end(dst, at)
}

// DecodeProcesses decodes a body into p, whose List it uses again.
func DecodeProcesses(body []byte, p *Processes) error {
	c := cursor{b: body}
	*p = Processes{GPU: c.small("gpu", 0, maxGPU), Seq: c.uint("seq", 1<<64-1), Known: c.bool("known"), List: p.List[:0]}
	for range c.uint("number of processes", MaxProcesses) {
		v := Process{PID: int32(c.small("pid", 1, 1<<31-1)), UsedBytes: c.int("memory")}
		if n := len(p.List); n < cap(p.List) {
			v.Instance = p.List[:n+1][n].Instance // of the last list
		}
		v.Instance = c.again("instance", v.Instance)
		if v.UsedBytes < -1 {
			c.fail("negative memory")
		}
		if len(v.Instance) > MaxInstanceID {
			c.fail("instance")
		}
		if c.bad != "" {
			break
		}
		p.List = append(p.List, v)
	}
	p.Why = c.string("text")
	return c.end("processes")
}

// AppendFault appends a frame.
func AppendFault(dst []byte, f *Fault) []byte {
	at := len(dst)
	dst = begin(dst, TypeFault)
	dst = binary.AppendVarint(dst, int64(f.GPU))
	dst = binary.AppendUvarint(dst, f.Seq)
	dst = appendString(dst, f.Function)
	dst = binary.AppendVarint(dst, int64(f.Code))
	dst = appendString(dst, f.Text)
	dst = appendBool(dst, f.Lost)
	dst = appendBool(dst, f.Ending)
	return end(dst, at)
}

// DecodeFault decodes a body.
func DecodeFault(body []byte, f *Fault) error {
	c := cursor{b: body}
	*f = Fault{GPU: c.small("gpu", -1, maxGPU), Seq: c.uint("seq", 1<<64-1), Function: c.string("function")}
	f.Code = c.small("code", -1<<31, 1<<31-1)
	f.Text = c.string("text")
	f.Lost, f.Ending = c.bool("lost"), c.bool("ending")
	return c.end("fault")
}

// AppendDone appends a frame.
func AppendDone(dst []byte, d *Done) []byte {
	at := len(dst)
	dst = begin(dst, TypeDone)
	dst = binary.AppendVarint(dst, int64(d.GPU))
	dst = binary.AppendUvarint(dst, d.Seq)
	dst = binary.AppendVarint(dst, d.TookUs)
	dst = binary.AppendVarint(dst, int64(d.Calls))
	dst = append(dst, byte(d.Slow))
	dst = binary.AppendVarint(dst, d.SlowUs)
	return end(dst, at)
}

// DecodeDone decodes a body.
func DecodeDone(body []byte, d *Done) error {
	c := cursor{b: body}
	*d = Done{GPU: c.small("gpu", 0, maxGPU), Seq: c.uint("seq", 1<<64-1), TookUs: c.int("took")}
	if d.TookUs < 0 {
		c.fail("negative duration")
	}
	d.Calls = c.small("calls", 0, 1<<20)
	d.Slow, d.SlowUs = Class(c.uint("class of calls", uint64(NumClasses-1))), c.int("took")
	if d.SlowUs < 0 {
		c.fail("negative duration")
	}
	return c.end("done")
}

const allVitals = 1<<NumVitals - 1

// AppendHealth appends a frame.
func AppendHealth(dst []byte, h *Health) []byte {
	at := len(dst)
	dst = begin(dst, TypeHealth)
	dst = binary.AppendVarint(dst, int64(h.GPU))
	dst = binary.AppendUvarint(dst, h.Seq)
	dst = binary.AppendVarint(dst, h.ElapsedUs)
	dst = binary.AppendVarint(dst, h.TookUs)
	dst = binary.AppendVarint(dst, int64(h.Calls))
	present := h.Present & allVitals
	dst = binary.AppendUvarint(dst, present)
	for ; present != 0; present &= present - 1 {
		dst = binary.AppendVarint(dst, h.Values[bits.TrailingZeros64(present)])
	}
	return end(dst, at)
}

// DecodeHealth decodes a body.
func DecodeHealth(body []byte, h *Health) error {
	c := cursor{b: body}
	*h = Health{GPU: c.small("gpu", 0, maxGPU), Seq: c.uint("seq", 1<<64-1)}
	h.ElapsedUs, h.TookUs = c.int("elapsed"), c.int("took")
	if h.ElapsedUs < 0 || h.TookUs < 0 {
		c.fail("negative duration")
	}
	h.Calls = c.small("calls", 0, 1<<20)
	present := c.uint("presence", allVitals)
	h.Present = present
	for ; present != 0 && c.bad == ""; present &= present - 1 {
		h.Values[bits.TrailingZeros64(present)] = c.int("value")
	}
	return c.end("health")
}

// AppendInstances appends a frame; of more than MaxInstances it takes the first.
func AppendInstances(dst []byte, p *Instances) []byte {
	at := len(dst)
	dst = begin(dst, TypeInstances)
	dst = binary.AppendVarint(dst, int64(p.GPU))
	dst = binary.AppendUvarint(dst, p.Seq)
	list := p.List[:min(len(p.List), MaxInstances)]
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for i := range list {
		v := &list[i]
		dst = binary.AppendVarint(dst, int64(v.GI))
		dst = binary.AppendVarint(dst, int64(v.CI))
		dst = appendString(appendString(dst, v.UUID), v.Profile)
		dst = binary.AppendVarint(dst, int64(v.SMs))
		dst = binary.AppendVarint(dst, int64(v.Slices))
		dst = binary.AppendVarint(dst, v.MemTotalBytes)
		dst = binary.AppendVarint(dst, v.MemUsedBytes)
	}
	return end(dst, at)
}

// DecodeInstances decodes a body into p, whose List it uses again.
func DecodeInstances(body []byte, p *Instances) error {
	c := cursor{b: body}
	*p = Instances{GPU: c.small("gpu", 0, maxGPU), Seq: c.uint("seq", 1<<64-1), List: p.List[:0]}
	for range c.uint("number of instances", MaxInstances) {
		var old Instance
		if n := len(p.List); n < cap(p.List) {
			old = p.List[:n+1][n] // of the last time
		}
		v := Instance{GI: c.instance(), CI: c.instance()}
		v.UUID, v.Profile = c.again("uuid", old.UUID), c.again("profile", old.Profile)
		v.SMs, v.Slices = c.small("SMs", -1, 1<<20), c.small("slices", -1, 1<<10)
		v.MemTotalBytes, v.MemUsedBytes = c.int("memory"), c.int("memory")
		if v.MemTotalBytes < -1 || v.MemUsedBytes < -1 {
			c.fail("negative memory")
		}
		if c.bad != "" {
			break
		}
		p.List = append(p.List, v)
	}
	return c.end("instances")
}

// AppendEvent appends a frame.
func AppendEvent(dst []byte, e *Event) []byte {
	at := len(dst)
	dst = begin(dst, TypeEvent)
	dst = binary.AppendVarint(dst, int64(e.GPU))
	dst = append(dst, byte(e.Kind))
	dst = binary.AppendVarint(dst, e.Code)
	dst = binary.AppendVarint(dst, int64(e.Count))
	dst = binary.AppendVarint(dst, int64(e.GI))
	dst = binary.AppendVarint(dst, int64(e.CI))
	dst = binary.AppendVarint(dst, e.AgoUs)
	return end(dst, at)
}

// DecodeEvent decodes a body.
func DecodeEvent(body []byte, e *Event) error {
	c := cursor{b: body}
	*e = Event{GPU: c.small("gpu", -1, maxGPU), Kind: EventKind(c.uint("kind of event", uint64(NumEventKinds-1))), Code: c.int("code")}
	e.Count = c.small("count", 1, 1<<31-1)
	e.GI, e.CI, e.AgoUs = c.instance(), c.instance(), c.int("age")
	if e.AgoUs < 0 {
		c.fail("negative duration")
	}
	return c.end("event")
}

// AppendListening appends a frame.
func AppendListening(dst []byte, l *Listening) []byte {
	at := len(dst)
	dst = begin(dst, TypeListening)
	dst = appendBool(dst, l.Able)
	dst = binary.AppendUvarint(dst, l.Heard)
	dst = binary.AppendUvarint(dst, l.Without)
	dst = appendBool(dst, l.Hangs)
	dst = appendString(dst, l.Function)
	dst = binary.AppendVarint(dst, int64(l.Code))
	dst = appendString(dst, l.Text)
	return end(dst, at)
}

// DecodeListening decodes a body.
func DecodeListening(body []byte, l *Listening) error {
	c := cursor{b: body}
	*l = Listening{Able: c.bool("able"), Heard: c.uint("heard", 1<<64-1), Without: c.uint("without", 1<<64-1), Hangs: c.bool("hangs"), Function: c.string("function")}
	l.Code = c.small("code", -1<<31, 1<<31-1)
	l.Text = c.string("text")
	if l.Heard&l.Without != 0 {
		c.fail("a GPU is heard, and has no events")
	}
	return c.end("listening")
}
