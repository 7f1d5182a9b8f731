package job

import (
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of wire.KindProcess.
const (
	fieldStart     = 1
	fieldPID       = 2
	fieldEnd       = 10
	fieldGPUs      = 11
	fieldExe       = 12
	fieldLauncher  = 13
	fieldJobSource = 14
	fieldJobID     = 15
	fieldUser      = 16
	fieldProject   = 17
	fieldWorld     = 18
	fieldRank      = 19
	fieldConf      = 20
	fieldEvidence  = 21
	fieldPlace     = 22
	fieldLocalRank = 23
	fieldLocalSize = 24
	fieldInstances = 25
	fieldExit      = 26
	fieldNCCL      = 27
	fieldContainer = 28
	fieldRestarts  = 29
)

// origin is what the columns of a row have from whom.
type origin struct {
	declared bool // its job
	nccl     wire.Source
	exit     wire.Source
}

// rowGroup is the rows of one origin.
type rowGroup struct {
	name  string
	names func(b *wire.Builder)
}

// absent is the origin of what is not in a row.
const absent = wire.Source(255)

// group finds the group of an origin. Of rows of one process in one batch the last one
// counts, and groups come in the order of their names: who knows more comes later.
func (j *Job) group(o origin) rowGroup {
	g, ok := j.kinds[o]
	if ok {
		return g
	}
	// Every step that goes before another in the text is a digit: "nccl" and "of a job" would be
	// sorted by their letters.
	g.name = "process job 0"
	if o.declared {
		g.name = "process job 1"
	}
	switch o.nccl {
	case absent:
		g.name += " nccl 0"
	case wire.SourceEBPF:
		g.name += " nccl 2"
	default:
		g.name += " nccl 1 " + o.nccl.String()
	}
	if o.exit != wire.SourceEBPF {
		g.name += " exit " + o.exit.String()
	}
	g.names = func(b *wire.Builder) {
		for _, f := range []uint8{fieldGPUs, fieldInstances} {
			b.SetSource(f, wire.SourceNVML)
		}
		for _, f := range []uint8{fieldProject, fieldWorld, fieldRank, fieldPlace, fieldLocalRank, fieldLocalSize, fieldRestarts} {
			b.SetSource(f, wire.SourceDeclared)
		}
		b.SetSource(fieldExit, o.exit)
		if o.nccl != absent {
			b.SetSource(fieldNCCL, o.nccl)
		}
		if o.declared {
			for _, f := range []uint8{fieldJobSource, fieldJobID, fieldContainer} {
				b.SetSource(f, wire.SourceDeclared)
			}
		}
	}
	j.kinds[o] = g
	return g
}

// put adds a row; endMs is 0 for a process that runs.
func (j *Job) put(p *process, endMs int64, out source.Sink) {
	j.row, j.endMs = p, endMs
	o := origin{declared: p.job.evidence != "" && p.job.evidence != byCgroup, nccl: absent, exit: wire.SourceEBPF}
	if p.nccl != "" {
		o.nccl = p.ncclBy
	}
	if endMs > 0 && p.exit > 0 {
		o.exit = p.exitBy
	}
	g := j.group(o)
	out.Row(wire.KindProcess, wire.SourceProcfs, g.name, g.names, j.fill)
}

func (j *Job) fillRow(b *wire.Builder) {
	p := j.row
	b.SetInt(fieldStart, p.startMs)
	b.SetInt(fieldPID, int64(p.pid))
	if j.endMs > 0 {
		b.SetInt(fieldEnd, j.endMs)
	}
	for _, v := range [...]struct {
		field uint8
		value string
	}{
		{fieldGPUs, p.gpuList}, {fieldExe, p.exe}, {fieldLauncher, p.launcher}, {fieldJobSource, p.job.source}, {fieldJobID, p.job.id}, {fieldUser, p.user},
		{fieldProject, p.job.project}, {fieldEvidence, p.job.evidence}, {fieldPlace, p.env.place}, {fieldInstances, p.migList}, {fieldNCCL, p.nccl}, {fieldContainer, p.job.container},
	} {
		if v.value != "" {
			b.SetStr(v.field, v.value)
		}
	}
	for _, v := range [...]struct {
		field uint8
		value int64
	}{
		{fieldWorld, p.env.world}, {fieldRank, p.env.rank}, {fieldLocalRank, p.env.localRank}, {fieldLocalSize, p.env.localWorld},
	} {
		if v.value >= 0 {
			b.SetInt(v.field, v.value)
		}
	}
	if p.job.conf > 0 {
		b.SetInt(fieldConf, p.job.conf)
	}
	if p.job.restarts > 0 {
		b.SetInt(fieldRestarts, p.job.restarts-1)
	}
	if j.endMs > 0 && p.exit > 0 {
		b.SetInt(fieldExit, int64(p.exit)-1)
	}
}
