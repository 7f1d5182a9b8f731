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

// put adds a row; endMs is 0 for a process that runs.
func (j *Job) put(p *process, endMs int64, out source.Sink) {
	j.row, j.endMs = p, endMs
	if p.job.evidence == "" || p.job.evidence == byCgroup {
		out.Row(wire.KindProcess, wire.SourceProcfs, "process", j.names, j.fill)
	} else {
		out.Row(wire.KindProcess, wire.SourceProcfs, "process declared", j.declaredNames, j.fill)
	}
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
