package nccl

// Codes of functions, as cookies and keys carry them.
const (
	fnAllReduce     = 1
	fnReduceScatter = 2
	fnAllGather     = 3
	fnBroadcast     = 4
	fnReduce        = 5
	fnAlltoAll      = 6
	fnGather        = 7
	fnScatter       = 8
	fnSend          = 9
	fnRecv          = 10
	fnInit          = 20
	fnInitConfig    = 21
	fnInitScalable  = 22
	fnInitAll       = 23
	fnSplit         = 24
	fnShrink        = 25
	fnDestroy       = 26
	fnAbort         = 27
)

// function is an exported function that gets a probe: which program, and at which positions
// its arguments are.
type function struct {
	name               string
	program            string
	code               uint8
	count, dtype, comm uint8
	// nvidia: only in NVIDIA's library. AMD's makes it of sends and receives, which are
	// counted themselves.
	nvidia bool
}

// functions gets one entry a function that does the work. ncclBcast calls ncclBroadcast;
// names with a p in front are the same addresses.
var functions = []function{
	{name: "ncclAllReduce", program: "coll", code: fnAllReduce, count: 2, dtype: 3, comm: 5},
	{name: "ncclReduceScatter", program: "coll", code: fnReduceScatter, count: 2, dtype: 3, comm: 5},
	{name: "ncclAllGather", program: "coll", code: fnAllGather, count: 2, dtype: 3, comm: 4},
	{name: "ncclBroadcast", program: "coll", code: fnBroadcast, count: 2, dtype: 3, comm: 5},
	{name: "ncclReduce", program: "coll", code: fnReduce, count: 2, dtype: 3, comm: 6},
	{name: "ncclAlltoAll", program: "coll", code: fnAlltoAll, count: 2, dtype: 3, comm: 4, nvidia: true},
	{name: "ncclGather", program: "coll", code: fnGather, count: 2, dtype: 3, comm: 5, nvidia: true},
	{name: "ncclScatter", program: "coll", code: fnScatter, count: 2, dtype: 3, comm: 5, nvidia: true},
	{name: "ncclSend", program: "coll", code: fnSend, count: 1, dtype: 2, comm: 4},
	{name: "ncclRecv", program: "coll", code: fnRecv, count: 1, dtype: 2, comm: 4},
	{name: "ncclCommInitRank", program: "init", code: fnInit},
	{name: "ncclCommInitRankConfig", program: "init", code: fnInitConfig},
	{name: "ncclCommInitRankScalable", program: "init_scalable", code: fnInitScalable},
	{name: "ncclCommInitAll", program: "init_all", code: fnInitAll},
	{name: "ncclCommSplit", program: "split", code: fnSplit},
	{name: "ncclCommShrink", program: "split", code: fnShrink},
	{name: "ncclCommDestroy", program: "destroy", code: fnDestroy},
	{name: "ncclCommAbort", program: "destroy", code: fnAbort},
}

// marker is the function by which a library is recognised.
const marker = "ncclAllReduce"

// cookie is what the programs get to know of a function.
func (f *function) cookie() uint64 {
	return uint64(f.code) | uint64(f.count)<<8 | uint64(f.dtype)<<12 | uint64(f.comm)<<16
}

// op is what a collective is called in rows, and by what its element count is multiplied:
// where each rank gives or gets a part, the count is of the part.
func op(code uint8) (name string, byRanks, ok bool) {
	switch code {
	case fnAllReduce:
		return "allreduce", false, true
	case fnReduceScatter:
		return "reducescatter", true, true
	case fnAllGather:
		return "allgather", true, true
	case fnBroadcast:
		return "broadcast", false, true
	case fnReduce:
		return "reduce", false, true
	case fnAlltoAll:
		return "alltoall", true, true
	case fnGather:
		return "gather", true, true
	case fnScatter:
		return "scatter", true, true
	case fnSend, fnRecv:
		return "sendrecv", false, true
	}
	return "", false, false
}

// dtypes are the names of element types, by NCCL's numbers.
var dtypes = [...]string{"i8", "u8", "i32", "u32", "i64", "u64", "f16", "f32", "f64", "bf16", "f8e4m3", "f8e5m2"}
