package bundle

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
)

// Bundle is an open recording. It is not safe for concurrent use; several may be open on
// one directory.
type Bundle struct {
	Manifest Manifest
	// Listed are the rows of nodes.csv in file order.
	Listed []NodeRow

	name     string
	fsys     fs.FS
	listed   map[string]bool
	unlisted map[string]bool
	reports  map[string]*FileReport
}

// maxUnlisted bounds the nodes that are remembered as unlisted.
const maxUnlisted = 10_000

// Open reads and checks the manifest of the recording in dir, and reads nodes.csv. No
// other file is opened before its reader is called. Errors are of type *Error.
func Open(dir string) (*Bundle, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, &Error{File: dir, Problem: "cannot be opened", Cause: cause(err)}
	}
	if !info.IsDir() {
		return nil, &Error{File: dir, Problem: "is no directory: a recording is a directory with " + manifestName}
	}
	return OpenFS(os.DirFS(dir), filepath.Base(dir))
}

// OpenFS is Open on the root of fsys. The name is for messages.
func OpenFS(fsys fs.FS, name string) (*Bundle, error) {
	m, err := readManifest(fsys)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Manifest: m, name: name, fsys: fsys, listed: map[string]bool{}, unlisted: map[string]bool{}, reports: map[string]*FileReport{}}
	err = each(b, nodesFile, func(c *cells) (NodeRow, int64) { return parseNode(c), 0 }, nil, func(r NodeRow) error {
		b.Listed = append(b.Listed, r)
		b.listed[r.Node] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// cause is an error of the file system without its path, which the message names already.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// Name is the name of the recording's directory.
func (b *Bundle) Name() string { return b.name }

// Lists reports whether nodes.csv has the node.
func (b *Bundle) Lists(node string) bool { return b.listed[node] }

// The readers give a file's usable rows in file order, which is arrival order, identical
// repeats left out. A file that is absent gives none. A reader stops with yield's error,
// unchanged, or with an *Error if the file cannot be read; what could not be used is in
// Report.

// GPU gives the rows of gpu.csv.
func (b *Bundle) GPU(yield func(GPURow) error) error {
	return each(b, gpuFile, parseGPU, func(r *GPURow, s Stamp) string { r.Stamp = s; return r.Node }, yield)
}

// Host gives the rows of host.csv.
func (b *Bundle) Host(yield func(HostRow) error) error {
	return each(b, hostFile, parseHost, func(r *HostRow, s Stamp) string { r.Stamp = s; return r.Node }, yield)
}

// Fabric gives the rows of fabric.csv.
func (b *Bundle) Fabric(yield func(FabricRow) error) error {
	return each(b, fabricFile, parseFabric, func(r *FabricRow, s Stamp) string { r.Stamp = s; return r.Node }, yield)
}

// Flows gives the rows of flows.csv. Rows that differ in bytes alone are not repeats: a
// pair may have several at one time, and they add up.
func (b *Bundle) Flows(yield func(FlowRow) error) error {
	return each(b, flowsFile, parseFlow, func(r *FlowRow, s Stamp) string { r.Stamp = s; return r.Node }, yield)
}

// Processes gives the rows of processes.csv.
func (b *Bundle) Processes(yield func(ProcessRow) error) error {
	return each(b, processesFile, parseProcess, func(r *ProcessRow, s Stamp) string {
		r.Stamp = s
		if r.EndMs != 0 {
			r.EndArrivalMs = max(s.ArrivalMs, r.EndMs)
		}
		return r.Node
	}, yield)
}

// Collectives gives the rows of collectives.csv.
func (b *Bundle) Collectives(yield func(CollectiveRow) error) error {
	return each(b, collectivesFile, parseCollective, func(r *CollectiveRow, s Stamp) string { r.Stamp = s; return r.Node }, yield)
}

// Allocations gives the rows of allocations.csv.
func (b *Bundle) Allocations(yield func(AllocationRow) error) error {
	return each(b, allocationsFile, parseAllocation, func(r *AllocationRow, s Stamp) string {
		r.Stamp = s
		if r.EndMs != 0 {
			r.EndArrivalMs = max(s.ArrivalMs, r.EndMs)
		}
		return r.Node
	}, yield)
}

// Orders gives the rows of orders.csv.
func (b *Bundle) Orders(yield func(OrderRow) error) error {
	return each(b, ordersFile, parseOrder, func(r *OrderRow, s Stamp) string { r.Stamp = s; return "" }, yield)
}

// each reads one CSV file. parse gives a row and its event time, stamp puts the arrival
// in and gives the node that the row names (nil: rows without arrival).
func each[T any](b *Bundle, file string, parse func(*cells) (T, int64), stamp func(*T, Stamp) string, yield func(T) error) error {
	src, rep, err := b.open(file)
	if err != nil || src == nil {
		return err
	}
	defer src.close()
	in := recordReader{lines: newLineReader(src)}
	columns := columnsOf[file]
	c := cells{columns: columns, most: bounds(columns), endMs: b.Manifest.EndMs, names: map[string]string{}}
	var seen window
	var arrival int64
	var row T // outside of the loop: stamp makes it escape
	for {
		fields, line, err := in.next()
		switch {
		case c.at == nil && (errors.Is(err, errLong) || errors.Is(err, errQuote)):
			return &Error{File: rep.File, Line: line, Problem: "the header cannot be read", Cause: err}
		case errors.Is(err, errLong), errors.Is(err, errQuote):
			rep.add(Issue{File: rep.File, Line: line, Problem: err.Error(), Wanted: "a record as in RFC 4180"})
			continue
		case errors.Is(err, errCount):
			rep.add(Issue{File: rep.File, Line: line, Problem: fmt.Sprintf("%d fields", len(fields)), Wanted: fmt.Sprintf("%d, as in the header", in.want)})
			continue
		case err != nil:
			return src.end(err, line, rep)
		}
		if c.at == nil {
			c.at = header(columns, fields, line, rep)
			in.want = len(fields)
			continue
		}
		c.fields, c.line, c.bad = fields, line, nil
		var event int64
		row, event = parse(&c)
		if c.bad != nil {
			c.bad.File = rep.File
			rep.add(*c.bad)
			continue
		}
		if !seen.add(digest(c.fields)) {
			rep.Repeats++
			continue
		}
		if event < arrival {
			rep.Late++
		}
		arrival = max(arrival, event)
		rep.Rows++
		if stamp != nil {
			if node := stamp(&row, Stamp{ArrivalMs: arrival, Line: line}); node != "" {
				b.saw(node)
			}
		}
		if err := yield(row); err != nil {
			return err
		}
	}
}

func (b *Bundle) saw(node string) {
	if !b.listed[node] && len(b.unlisted) < maxUnlisted {
		b.unlisted[node] = true
	}
}

// header finds the columns. A column that is named twice is taken where it is first.
func header(columns []string, fields [][]byte, line int, rep *FileReport) []int {
	at := make([]int, len(columns))
	index := map[string]int{}
	for i, f := range fields {
		name := string(f)
		if _, twice := index[name]; twice {
			rep.add(Issue{File: rep.File, Line: line, Column: truncate(name), Problem: "named twice in the header: the first is used"})
			continue
		}
		index[name] = i
	}
	for i, name := range columns {
		at[i] = -1
		if f, ok := index[name]; ok {
			at[i] = f
			delete(index, name)
		} else {
			rep.MissingColumns = append(rep.MissingColumns, name)
		}
	}
	for _, f := range fields {
		if _, unknown := index[string(f)]; unknown && len(rep.UnknownColumns) < MaxListed {
			rep.UnknownColumns = append(rep.UnknownColumns, truncate(string(f)))
			delete(index, string(f))
		}
	}
	return at
}

// source is an open file, unpacked.
type source struct {
	io.Reader
	file fs.File
	gzip bool
}

func (s *source) close() { _ = s.file.Close() } // read only: nothing is lost

// end judges what ended a stream: nothing is wrong at io.EOF; a broken gzip stream is an
// issue, because the rows before the break are good; anything else makes the file unreadable.
func (s *source) end(err error, line int, rep *FileReport) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	if s.gzip && broken(err) {
		problem := "the gzip stream is damaged"
		if errors.Is(err, io.ErrUnexpectedEOF) {
			problem = "the gzip stream is truncated"
		}
		rep.add(Issue{File: rep.File, Line: line + 1, Problem: problem + ": the rows before this line are used", Wanted: "a whole gzip stream"})
		return nil
	}
	return &Error{File: rep.File, Line: line + 1, Problem: "cannot be read", Cause: err}
}

// broken tells damage inside a gzip stream from a failing disk.
func broken(err error) bool {
	_, disk := errors.AsType[*fs.PathError](err)
	return !disk
}

// failing gives an error in place of data.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// open opens name or name.gz and starts its report. A file that is absent gives nil.
func (b *Bundle) open(name string) (*source, *FileReport, error) {
	rep := &FileReport{File: name}
	b.reports[name] = rep
	fail := func(problem string, cause error) (*source, *FileReport, error) {
		return nil, nil, &Error{File: rep.File, Problem: problem, Cause: cause}
	}
	plain, plainErr := fs.Stat(b.fsys, name)
	zipped, packedErr := fs.Stat(b.fsys, name+".gz")
	packed := packedErr == nil
	switch {
	case plainErr == nil && packed:
		return fail("is there twice, plain and as .gz", nil)
	case plainErr != nil && !errors.Is(plainErr, fs.ErrNotExist):
		return fail("cannot be opened", plainErr)
	case !packed && !errors.Is(packedErr, fs.ErrNotExist):
		return fail("cannot be opened", packedErr)
	case plainErr != nil && !packed:
		return nil, rep, nil
	}
	info := plain
	if packed {
		rep.File += ".gz"
		info = zipped
	}
	rep.Present = true
	if !info.Mode().IsRegular() { // asked before opening: a named pipe would hang there
		return fail("cannot be read", errIrregular)
	}
	f, err := b.fsys.Open(rep.File)
	if err != nil {
		return fail("cannot be opened", err)
	}
	s := &source{Reader: f, file: f, gzip: packed}
	if packed {
		z, err := gzip.NewReader(bufio.NewReaderSize(f, 64<<10))
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // an empty file is a truncated one
		}
		if err != nil {
			s.Reader = failing{err}
		} else {
			s.Reader = z
		}
	}
	return s, rep, nil
}

var errIrregular = errors.New("not a regular file")
