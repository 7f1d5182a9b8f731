// The scenario as functions of time: values at a moment and their integrals, without a loop
// over time. model.go computes the same; a test holds them together.
#include <math.h>
#include <string.h>

#include "stub.h"

#define LATEST_US (INT64_C(1) << 52)

int64_t cycle_us(const struct stub_config *conf, int64_t at_us) {
    return conf->repeat_us > 0 ? at_us % conf->repeat_us : at_us;
}

struct load gpu_load(const struct stub_gpu *g) { return (struct load){g->segments, g->segment, g->idle}; }

struct load instance_load(const struct stub_instance *m) { return (struct load){m->segments, m->segment, m->idle}; }

const struct stub_segment *segment_at(const struct stub_config *conf, const struct load *l, int64_t at_us) {
    int64_t t = cycle_us(conf, at_us);
    for (uint32_t i = 0; i < l->segments; i++) {
        const struct stub_segment *s = &l->segment[i];
        if (t >= s->start_us && t - s->start_us < s->length_us) return s;
    }
    return NULL;
}

// of is a quantity of a level, or what CYCLES makes of it.
static double of(const double *level, int q) {
    if (q < STUB_QUANTITIES) return level[q];
    double hertz = level[STUB_SM_MHZ] * 1e6;
    return q == CYCLES_ELAPSED ? hertz : level[q - STUB_QUANTITIES] * hertz;
}

// computing is how long of a step is the computing part.
static int64_t computing(const struct stub_segment *s) {
    return (int64_t)llround((1 - s->comm) * (double)s->step_us);
}

double value_at(const struct call *c, int q, int64_t at_us) {
    const struct stub_segment *s = segment_at(c->conf, &c->load, at_us);
    if (s == NULL) return of(c->load.idle, q);
    if (s->step_us <= 0) return of(s->level[0], q);
    int64_t in = (cycle_us(c->conf, at_us) - s->start_us + s->phase_us) % s->step_us;
    return of(s->level[in >= computing(s)], q);
}

// steps is the integral, over microseconds, of steps that begin at 0.
static double steps(const struct stub_segment *s, int q, int64_t to_us) {
    double a = of(s->level[0], q), b = of(s->level[1], q);
    if (s->step_us <= 0) return a * (double)to_us;
    int64_t part = computing(s), n = to_us / s->step_us, rest = to_us % s->step_us;
    double whole = a * (double)part + b * (double)(s->step_us - part);
    double last = rest < part ? a * (double)rest : a * (double)part + b * (double)(rest - part);
    return (double)n * whole + last;
}

// once is the integral from 0 within one cycle.
static double once(const struct load *l, int q, int64_t to_us) {
    double sum = 0;
    int64_t gap = to_us;
    for (uint32_t i = 0; i < l->segments && l->segment[i].start_us < to_us; i++) {
        const struct stub_segment *s = &l->segment[i];
        int64_t in = to_us - s->start_us;
        if (in > s->length_us) in = s->length_us;
        sum += steps(s, q, in + s->phase_us) - steps(s, q, s->phase_us);
        gap -= in;
    }
    return sum + of(l->idle, q) * (double)gap;
}

double integral(const struct stub_config *conf, const struct load *l, int q, int64_t to_us) {
    if (to_us <= 0) return 0;
    if (conf->repeat_us <= 0) return once(l, q, to_us) / 1e6;
    double sum = once(l, q, to_us % conf->repeat_us);
    int64_t n = to_us / conf->repeat_us;
    if (n > 0) sum += (double)n * once(l, q, conf->repeat_us);
    return sum / 1e6;
}

double mean_of_last(const struct call *c, int q, int64_t window_us) {
    int64_t from = c->now_us > window_us ? c->now_us - window_us : 0;
    if (from >= c->now_us) return value_at(c, q, c->now_us);
    double d = integral(c->conf, &c->load, q, c->now_us) - integral(c->conf, &c->load, q, from);
    return d * 1e6 / (double)(c->now_us - from);
}

// count is a counter's state: from its start, or from zero since the last reset.
double count(const struct call *c, int q, uint64_t start, double scale) {
    double sum = integral(c->conf, &c->load, q, c->now_us);
    if (c->now_us >= c->gpu->reset_us) {
        sum -= integral(c->conf, &c->load, q, c->gpu->reset_us);
        start = 0;
    }
    return (double)start + sum * scale;
}

uint64_t counter(const struct call *c, int q, uint64_t start, double scale) {
    if (c->now_us >= c->gpu->reset_us) start = 0;
    return start + to_u64(count(c, q, 0, scale)); // a start of its own: it may be too large for a double
}

// held_us is how long, from 0 within one cycle, one of some reasons held the clocks down.
static int64_t held_us(const struct stub_gpu *g, uint64_t reasons, int64_t to_us) {
    int64_t sum = 0, gap = to_us;
    for (uint32_t i = 0; i < g->segments && g->segment[i].start_us < to_us; i++) {
        const struct stub_segment *s = &g->segment[i];
        int64_t in = to_us - s->start_us < s->length_us ? to_us - s->start_us : s->length_us;
        if (s->reasons & reasons) sum += in;
        gap -= in;
    }
    return g->idle_reasons & reasons ? sum + gap : sum;
}

static int64_t held_since_start(const struct call *c, uint64_t reasons, int64_t to_us) {
    int64_t cycle = c->conf->repeat_us;
    if (cycle <= 0) return held_us(c->gpu, reasons, to_us);
    return to_us / cycle * held_us(c->gpu, reasons, cycle) + held_us(c->gpu, reasons, to_us % cycle);
}

// capped_ns is how long one of some reasons held the clocks down: the time for which it was shown.
uint64_t capped_ns(const struct call *c, uint64_t reasons, uint64_t start) {
    int64_t us = held_since_start(c, reasons, c->now_us);
    if (c->now_us >= c->gpu->reset_us) {
        us -= held_since_start(c, reasons, c->gpu->reset_us);
        start = 0;
    }
    return start + (uint64_t)us * 1000;
}

uint64_t to_u64(double v) {
    if (!(v > 0)) return 0;
    return v >= 9.2e18 ? UINT64_C(9200000000000000000) : (uint64_t)v;
}

unsigned int to_percent(double fraction) {
    if (!(fraction > 0)) return 0;
    return fraction >= 1 ? 100 : (unsigned int)lround(fraction * 100);
}

static bool levels_valid(const double *level) {
    for (int q = 0; q < STUB_QUANTITIES; q++)
        if (!isfinite(level[q]) || level[q] < 0 || level[q] > 1e18) return false;
    return true;
}

static bool load_valid(const struct load *l, int64_t repeat_us) {
    if (!levels_valid(l->idle)) return false;
    int64_t end = 0;
    for (uint32_t i = 0; i < l->segments; i++) {
        const struct stub_segment *s = &l->segment[i];
        if (s->start_us < end || s->start_us > LATEST_US || s->length_us <= 0 || s->length_us > LATEST_US) return false;
        if (s->step_us < 0 || s->step_us > LATEST_US || s->phase_us < 0 || s->phase_us > LATEST_US) return false;
        if (!(s->comm >= 0 && s->comm <= 1)) return false;
        if (!levels_valid(s->level[0]) || !levels_valid(s->level[1])) return false;
        end = s->start_us + s->length_us;
    }
    return repeat_us == 0 || end <= repeat_us;
}

static bool instance_valid(struct stub_instance *m, int64_t repeat_us) {
    m->uuid[sizeof m->uuid - 1] = m->profile[sizeof m->profile - 1] = 0;
    if (m->gpu >= STUB_MAX_GPUS || m->place >= STUB_MAX_MIG || m->segments > STUB_MAX_INSTANCE_SEGMENTS) return false;
    if (m->mem_reserved > m->mem_total || m->bar1_used > m->bar1_total || m->id == 0) return false;
    struct load l = instance_load(m);
    return load_valid(&l, repeat_us);
}

static bool gpu_valid(struct stub_gpu *g, int64_t repeat_us) {
    g->uuid[sizeof g->uuid - 1] = g->name[sizeof g->name - 1] = g->serial[sizeof g->serial - 1] = 0;
    g->vbios[sizeof g->vbios - 1] = g->board_part[sizeof g->board_part - 1] = 0;
    if (g->segments > STUB_MAX_SEGMENTS || g->nvlinks > STUB_MAX_LINKS || g->ecc > 2 || g->ecc_pending > 2 || g->mig > 2 || g->mig_pending > 2 || g->cycles > STUB_CYCLES_REFUSED) return false;
    if (g->health.bar1_used_bytes > g->bar1_total || g->health.mem_reserved_bytes > g->mem_total || g->reset_us < 0) return false;
    struct load l = gpu_load(g);
    return load_valid(&l, repeat_us);
}

// config_valid reports whether the library can work with a configuration, and ends its strings.
bool config_valid(struct stub_config *conf) {
    conf->driver[sizeof conf->driver - 1] = conf->nvml[sizeof conf->nvml - 1] = 0;
    if (conf->gpus < 1 || conf->gpus > STUB_MAX_GPUS || conf->processes > STUB_MAX_PROCESSES) return false;
    if (conf->instances > STUB_MAX_INSTANCES || conf->unprivileged > 1 || conf->blocked > STUB_MAX_BLOCKED || conf->events > STUB_MAX_EVENTS || conf->faults > STUB_MAX_FAULTS) return false;
    if (conf->repeat_us < 0 || conf->repeat_us > LATEST_US || conf->manual > 1) return false;
    if (conf->base_boot_us < -LATEST_US || conf->base_boot_us > LATEST_US) return false;
    if (conf->base_epoch_us < 0 || conf->base_epoch_us > LATEST_US) return false;
    for (uint32_t i = 0; i < conf->gpus; i++)
        if (!gpu_valid(&conf->gpu[i], conf->repeat_us)) return false;
    for (uint32_t i = 0; i < conf->blocked; i++) conf->block[i][sizeof conf->block[i] - 1] = 0;
    for (uint32_t i = 0; i < conf->instances; i++)
        if (!instance_valid(&conf->instance[i], conf->repeat_us)) return false;
    for (uint32_t i = 0; i < conf->processes; i++) {
        struct stub_process *p = &conf->process[i];
        p->name[sizeof p->name - 1] = 0;
        if (p->type > 2) return false;
    }
    for (uint32_t i = 0; i < conf->events; i++)
        if (conf->event[i].gpu >= conf->gpus || (i > 0 && (conf->event[i].at_us < conf->event[i - 1].at_us || conf->event[i].id <= conf->event[i - 1].id))) return false;
    for (uint32_t i = 0; i < conf->faults; i++) {
        struct stub_fault *f = &conf->fault[i];
        f->function[sizeof f->function - 1] = 0;
        if (f->delay_us < 0) return false;
    }
    return true;
}
