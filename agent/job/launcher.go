package job

import "strings"

// maxParents bounds the walk from a process to what launched it.
const maxParents = 16

// launchers maps names of programs (comm, cut to 15 bytes by the kernel) to what they are
// called in a row.
var launchers = map[string]string{
	"torchrun": "torchrun", "pt_elastic": "torchrun", "deepspeed": "deepspeed", "accelerate": "accelerate", "accelerate-laun": "accelerate",
	"ray": "ray", "raylet": "ray", "horovodrun": "horovodrun", "colossalai": "colossalai",
	"mpirun": "mpirun", "mpiexec": "mpirun", "mpiexec.hydra": "mpirun", "mpirun_rsh": "mpirun", "orterun": "mpirun", "orted": "mpirun",
	"prte": "mpirun", "prted": "mpirun", "prterun": "mpirun", "hydra_pmi_proxy": "mpirun", "pmi_proxy": "mpirun",
	"srun": "srun", "slurmstepd": "srun", "jsrun": "jsrun", "aprun": "aprun",
}

// launcher returns what launched a process: the nearest of its ancestors, itself among
// them, that is a launcher; "" if none is. A launcher that hides its name, as
// "python -m torch.distributed.run" does, is not seen: arguments are never read.
func (p *procfs) launcher(own stat, o owner) string {
	s := own
	for range maxParents {
		comm := string(s.comm)
		if strings.HasPrefix(comm, "ray::") {
			return "ray"
		}
		if l := launchers[comm]; l != "" {
			if comm == "slurmstepd" && o.step == "batch" {
				return "sbatch" // the script itself, no srun in between
			}
			return l
		}
		if s.ppid <= 1 {
			return ""
		}
		var err error
		if s, err = p.stat(s.ppid); err != nil {
			return "" // it has ended, or may not be seen
		}
	}
	return ""
}
