// Package forecast projects when a run may cross a limit.
//
// It owns rates over calendar time, stalls included, and what follows from them: the
// moment of a crossing as 10, 50 and 90 % points, and the total at the end of a
// contract. It must not know what a limit means, whom it binds, or telemetry: it reads a
// series of cumulative best values and the interval of its end.
//
// It is pure and keeps nothing; slices belong to the caller and are only read.
//
// # Crossing
//
// Two things are uncertain: by what factor the whole series is off (the estimate's interval,
// the same factor at all times), and how the run goes on: at the level of the last day, or of
// the last hour where it was scaled up or down since, over a calendar from which interruptions
// take what they took in the last week (with what published trainings lost where the run is
// young). The sum of interruptions to come has the variance of a compound Poisson process with
// the run's own lengths; the level drifts, and may grow again where it has grown. Both are
// taken on a grid of quantiles, without chance; each pair gives one moment, in the past where
// the scaled series has crossed already, in the future otherwise, never later than the
// contract.
package forecast
