/* Which candidates to measure next, learnt from those that were.
 *
 * The logarithm of a time is the prediction's plus a smooth function of the schedule: Gaussian
 * process regression (kernel ridge regression with its variance) over features of the opts, with a
 * linear term in the prediction, so that a model that exaggerates is corrected too. Candidates are
 * taken one by one, the least mean minus a share of the deviation first; each one taken counts as
 * measured at its mean, which lowers the deviation of what is like it: without any measurement
 * this gives the best predicted schedules that are not all the same one. Everything is a function
 * of the inputs; the work is bounded by RANK_ROWS and the size of the pool. */
#include <math.h>

#include "compiler/search/internal.h"

static const double DEVIATION = 0.35; /* of a prediction, in ln ns */
static const double SLOPE = 0.4;      /* of how much predictions exaggerate */
static const double NOISE = 0.02;
static const double GREED = 0.8; /* deviations that an unknown is given as an advance */

struct Rank {
  uint32_t n;
  Features *x;
  double *lower; /* Cholesky factor, n * n */
  double *alpha;
  double offset, centre, scale;
};

/* -- features ---------------------------------------------------------------------------------- */

enum {
  F_AXES = 8,
  F_PER_AXIS = 5, /* tile, lanes, threads, threads of a workgroup, place */
  F_STAGES = 4,
  F_STAGE = F_AXES * F_PER_AXIS,
  F_MERGE = F_STAGE + 2 * F_STAGES,
  F_OTHER = F_MERGE + 4, /* kinds that nothing else is said of */
};

static float log2f_of(int64_t v) { return v > 1 ? log2f((float)v) : 0; }

static void axis_feature(float *f, const Opt *o, uint32_t axis) {
  float *at = f + (axis % F_AXES) * F_PER_AXIS;
  switch ((OptKind)o->kind) {
  case OPT_UPCAST:
  case OPT_UNROLL: at[0] += log2f_of(o->arg); break;
  case OPT_VECTOR: at[1] = 0.7f * log2f_of(o->arg); break;
  case OPT_THREAD: at[2] = 1.5f; break;
  case OPT_LOCAL:
  case OPT_GROUP: at[3] = log2f_of(o->arg); break;
  case OPT_GROUPTOP: at[3] = log2f_of(o->arg) + 1.5f; break;
  case OPT_ORDER: at[4] = 0.8f * (float)(o->arg + 1); break;
  default: f[F_OTHER + o->kind % (RANK_FEATURES - F_OTHER)] += 1 + 0.5f * log2f_of(o->arg); break;
  }
}

void search_features(const Point *p, Features *out) {
  *out = (Features){.predicted = (float)log(p->predicted > 1 ? p->predicted : 1)};
  for (uint32_t i = 0; i < p->len; i++) {
    const Opt *o = &p->at[i];
    if (o->kind == OPT_STAGE) {
      float *at = out->at + F_STAGE + 2 * ((uint32_t)o->arg % F_STAGES);
      at[0] = 1.5f, at[1] = 0.7f * (float)(o->axis + 2);
    } else if (o->kind == OPT_MERGE) {
      out->at[F_MERGE + (o->axis & 3)] = 2;
    } else {
      axis_feature(out->at, o, o->axis < 0 ? 0 : (uint32_t)o->axis);
    }
  }
}

/* -- regression -------------------------------------------------------------------------------- */

static double distance2(const Features *a, const Features *b) {
  float d = 0;
  for (int i = 0; i < RANK_FEATURES; i++) d += (a->at[i] - b->at[i]) * (a->at[i] - b->at[i]);
  return (double)d;
}

static double covariance(const Rank *r, const Features *a, const Features *b) {
  double near = DEVIATION * DEVIATION * exp(-0.5 * distance2(a, b) / (r->scale * r->scale));
  double slope = SLOPE * SLOPE * (a->predicted - r->centre) * (b->predicted - r->centre);
  return near + slope;
}

/* Lower triangle in place; false when rounding makes it impossible. */
static bool factorise(double *a, uint32_t n) {
  for (uint32_t j = 0; j < n; j++) {
    for (uint32_t i = j; i < n; i++) {
      double s = a[i * n + j];
      for (uint32_t k = 0; k < j; k++) s -= a[i * n + k] * a[j * n + k];
      if (i == j && s <= 1e-12) return false;
      a[i * n + j] = i == j ? sqrt(s) : s / a[j * n + j];
    }
  }
  return true;
}

/* x = L^-1 x; the first n of a row of any length. */
static void solve_lower(const double *lower, uint32_t n, double *x) {
  for (uint32_t i = 0; i < n; i++) {
    double s = x[i];
    for (uint32_t k = 0; k < i; k++) s -= lower[i * n + k] * x[k];
    x[i] = s / lower[i * n + i];
  }
}

static void solve_upper(const double *lower, uint32_t n, double *x) {
  for (uint32_t i = n; i-- > 0;) {
    double s = x[i];
    for (uint32_t k = i + 1; k < n; k++) s -= lower[k * n + i] * x[k];
    x[i] = s / lower[i * n + i];
  }
}

/* How likely the measurements are under a scale of the features; leaves r ready for use. */
static double fit_scale(Rank *r, const float *ln_ns, double scale) {
  uint32_t n = r->n;
  r->scale = scale;
  for (uint32_t i = 0; i < n; i++) {
    for (uint32_t k = 0; k <= i; k++)
      r->lower[i * n + k] = covariance(r, &r->x[i], &r->x[k]) + (i == k ? NOISE * NOISE : 0);
    r->alpha[i] = ln_ns[i] - r->x[i].predicted - r->offset;
  }
  if (!factorise(r->lower, n)) return -INFINITY;
  double likelihood = 0;
  solve_lower(r->lower, n, r->alpha);
  for (uint32_t i = 0; i < n; i++)
    likelihood -= 0.5 * r->alpha[i] * r->alpha[i] + log(r->lower[i * n + i]);
  solve_upper(r->lower, n, r->alpha);
  return likelihood;
}

Rank *search_rank_fit(Job *job, const Features *x, const float *ln_ns, size_t n) {
  static const double scales[] = {1.5, 3, 6};
  Rank *r = arena_alloc(&job->arena, sizeof *r);
  uint32_t rows = n > RANK_ROWS ? RANK_ROWS : (uint32_t)n;
  *r = (Rank){.n = rows, .scale = scales[2]}; /* unlike each other, as long as nothing is known */
  r->x = arena_array(&job->arena, rows + 1u, sizeof *r->x);
  r->lower = arena_array(&job->arena, (size_t)rows * rows + 1, sizeof *r->lower);
  r->alpha = arena_array(&job->arena, rows + 1u, sizeof *r->alpha);
  for (uint32_t i = 0; i < rows; i++) {
    r->x[i] = x[i];
    r->centre += (double)x[i].predicted / rows;
    r->offset += ((double)ln_ns[i] - (double)x[i].predicted) / rows;
  }
  if (!rows) return r;
  int best = 1;
  double most = -INFINITY;
  for (int i = 0; i < 3; i++) {
    double likelihood = fit_scale(r, ln_ns, scales[i]);
    if (likelihood > most) most = likelihood, best = i;
  }
  if (fit_scale(r, ln_ns, scales[best]) == -INFINITY) r->n = 0;
  return r;
}

/* -- choosing ---------------------------------------------------------------------------------- */

typedef struct Guess {
  double mean, variance;
  double *row; /* L^-1 k, grown by one for each candidate taken */
  bool taken;
} Guess;

static void guess(const Rank *r, const Features *x, Guess *g) {
  g->mean = x->predicted + r->offset;
  for (uint32_t i = 0; i < r->n; i++) {
    g->row[i] = covariance(r, x, &r->x[i]);
    g->mean += g->row[i] * r->alpha[i];
  }
  solve_lower(r->lower, r->n, g->row);
  g->variance = covariance(r, x, x);
  for (uint32_t i = 0; i < r->n; i++) g->variance -= g->row[i] * g->row[i];
}

static double score(const Guess *g) {
  return g->mean - GREED * sqrt(g->variance > 0 ? g->variance : 0);
}

size_t search_rank_pick(Job *job, const Rank *fitted, const Features *pool, size_t n, size_t want,
                        uint32_t *picked, double *ln_ns) {
  Rank copy = *fitted, *r = &copy;
  Guess *g = arena_array(&job->arena, n + 1, sizeof *g);
  if (want > n) want = n;
  if (!r->n) {
    r->centre = INFINITY;
    for (size_t i = 0; i < n; i++) r->centre = fmin(r->centre, pool[i].predicted);
  }
  for (size_t i = 0; i < n; i++) {
    g[i].row = arena_array(&job->arena, r->n + want + 1, sizeof *g[i].row);
    guess(r, &pool[i], &g[i]);
    job_poll(job);
  }
  for (size_t taken = 0; taken < want; taken++) {
    size_t best = n;
    for (size_t i = 0; i < n; i++)
      if (!g[i].taken && (best == n || score(&g[i]) < score(&g[best]))) best = i;
    picked[taken] = (uint32_t)best;
    ln_ns[taken] = g[best].mean;
    g[best].taken = true;
    double deviation = sqrt((g[best].variance > 0 ? g[best].variance : 0) + NOISE * NOISE);
    for (size_t i = 0; i < n; i++) {
      if (g[i].taken) continue;
      double c = covariance(r, &pool[i], &pool[best]);
      for (size_t k = 0; k < r->n + taken; k++) c -= g[i].row[k] * g[best].row[k];
      g[i].row[r->n + taken] = c / deviation;
      g[i].variance -= c * c / (deviation * deviation);
    }
  }
  return want;
}
