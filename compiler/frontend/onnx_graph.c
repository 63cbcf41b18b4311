/* ModelProto to tensor graph.
 *
 * Nodes are visited depth first from the outputs, so that order in the file does not matter,
 * cycles are found, and nodes that nothing needs cost nothing (and may be of any op). Names live
 * in scopes: one for the main graph, one per subgraph or call of a model-local function, each
 * seeing the one around it (functions see only themselves).
 *
 * All errors leave through job_abort; the walk remembers the node at hand, and frontend_onnx puts
 * it in front of the message. */
#include "compiler/frontend/onnx_graph.h"

enum { OPSET_MAX = 28, CALL_DEPTH = 32 };

typedef struct Scope {
  StrMap names; /* to Val */
  struct Scope *outer;
  struct Scope *all; /* list of every scope, for the end */
} Scope;

struct OnnxWalk {
  Front front;
  OnnxModel model;
  StrMap ops;       /* "domain:name" to the first OnnxOp of that name */
  StrMap functions; /* "domain:name" to OnnxFunction */
  StrMap producers; /* of the graph being sorted */
  Scope *scopes;
  Scope *scope;
  const OnnxNode *current;
  const OnnxOpset *opsets;
  size_t nopsets;
  unsigned depth;
  TensorGraph *out;
};

const OnnxOp *const onnx_families[] = {
#define FAMILY(name) onnx_##name##_ops,
#include "compiler/frontend/onnx_families.def"
#undef FAMILY
    NULL,
};

static Job *walk_job(OnnxWalk *w) { return w->front.job; }

static void put(OnnxWalk *w, StrMap *m, Str key, void *value) {
  if (!strmap_put(m, key, value))
    job_abort(walk_job(w), FAIL(RESOURCE_EXHAUSTED, "out of memory for names"));
}

static Str normal_domain(Str d) { return str_is(d, "ai.onnx") ? STR("") : d; }

static Str op_key(OnnxWalk *w, Str domain, Str name) {
  domain = normal_domain(domain);
  const char *k =
      arena_printf(&walk_job(w)->arena, STR_FMT ":" STR_FMT, STR_ARG(domain), STR_ARG(name));
  return str_from(k);
}

static void register_ops(OnnxWalk *w) {
  for (size_t i = 0; onnx_families[i]; i++) {
    for (const OnnxOp *op = onnx_families[i]; op->name; op++) {
      Str key = op_key(w, str_from(op->domain), str_from(op->name));
      if (!strmap_find(&w->ops, key)) put(w, &w->ops, key, (void *)(uintptr_t)op);
    }
  }
}

/* -- scopes ---------------------------------------------------------------------------------- */

static Scope *enter(OnnxWalk *w, Scope *outer) {
  Scope *s = arena_alloc(&walk_job(w)->arena, sizeof *s);
  *s = (Scope){.outer = outer, .all = w->scopes};
  w->scopes = s;
  w->scope = s;
  if (++w->depth > CALL_DEPTH)
    job_abort(walk_job(w),
              FAIL(RESOURCE_EXHAUSTED, "graphs and functions nested deeper than %d", CALL_DEPTH));
  return s;
}

static void leave(OnnxWalk *w, Scope *back) {
  w->scope = back;
  w->depth--;
}

static Val *find_name(OnnxWalk *w, Str name) {
  for (Scope *s = w->scope; s; s = s->outer) {
    Val *v = strmap_find(&s->names, name);
    if (v) return v;
  }
  return NULL;
}

static void define(OnnxWalk *w, Str name, Val *v) {
  if (strmap_find(&w->scope->names, name))
    job_abort(walk_job(w),
              FAIL(INVALID_ARGUMENT, "the name '" STR_FMT "' is defined twice", STR_ARG(name)));
  if (!v->name.len) v->name = name;
  put(w, &w->scope->names, name, v);
}

/* -- one node -------------------------------------------------------------------------------- */

static int64_t opset_of(OnnxWalk *w, Str domain) {
  domain = normal_domain(domain);
  for (size_t i = 0; i < w->nopsets; i++)
    if (str_eq(normal_domain(w->opsets[i].domain), domain)) return w->opsets[i].version;
  return 0;
}

static const OnnxOp *find_op(OnnxWalk *w, const OnnxNode *p, int64_t opset) {
  Str domain = normal_domain(p->domain);
  const OnnxOp *op = strmap_find(&w->ops, op_key(w, domain, p->op_type)), *best = NULL;
  if (!op)
    job_abort(walk_job(w),
              FAIL(UNIMPLEMENTED, "op '" STR_FMT "' of domain '" STR_FMT "' is not supported",
                   STR_ARG(p->op_type), STR_ARG(domain.len ? domain : STR("ai.onnx"))));
  const char *name = op->name;
  for (; op->name && !strcmp(op->name, name); op++)
    if (op->since <= opset && (!best || op->since > best->since)) best = op;
  if (!best)
    job_abort(walk_job(w),
              FAIL(UNIMPLEMENTED, "version %lld of op '%s' is not supported: too old a definition",
                   (long long)opset, name));
  return best;
}

static void check_arity(OnnxWalk *w, const OnnxOp *op, const OnnxNode *p) {
  size_t n = p->input.n;
  if (n < op->min_in || (op->max_in != 255 && n > op->max_in))
    job_abort(walk_job(w),
              FAIL(INVALID_ARGUMENT, "%zu sources, expected %u to %u", n, op->min_in, op->max_in));
}

/* Their handlers calculate with sizes as numbers; other handlers that do say so themselves. */
static const OnnxOp *const fixed_families[] = {onnx_sample_ops, onnx_signal_ops, NULL};

static void check_sizes(OnnxWalk *w, const OnnxOp *op, const Node *n) {
  Job *job = walk_job(w);
  const Val *open = NULL;
  for (size_t i = 0; i < n->nin; i++)
    if (n->in[i] && !shape_is_static(n->in[i]->shape)) open = n->in[i];
  for (size_t i = 0; open && fixed_families[i]; i++)
    for (const OnnxOp *o = fixed_families[i]; o->name; o++)
      if (o == op)
        job_abort(job, FAIL(UNIMPLEMENTED,
                            "source '" STR_FMT "' has shape %s, which a run decides: this op needs "
                            "numbers",
                            STR_ARG(open->name), shape_text(job, open->shape)));
}

static Node make_node(OnnxWalk *w, const OnnxNode *p, int64_t opset) {
  Job *job = walk_job(w);
  Node n = {.f = &w->front, .job = job, .proto = p, .opset = opset, .walk = w};
  n.nin = p->input.n;
  n.in = arena_array(&job->arena, n.nin, sizeof *n.in);
  n.nout = p->output.n;
  n.out = arena_array(&job->arena, n.nout, sizeof *n.out);
  for (size_t i = 0; i < n.nin; i++) {
    Str name = p->input.at[i];
    if (!name.len) continue;
    n.in[i] = find_name(w, name);
    if (!n.in[i])
      job_abort(job, FAIL(INVALID_ARGUMENT, "source '" STR_FMT "' is not defined", STR_ARG(name)));
  }
  return n;
}

static void call_function(OnnxWalk *w, Node *n, const OnnxFunction *fn);
static Status name_node(OnnxWalk *w, Status st);

static void convert_node(OnnxWalk *w, const OnnxNode *p) {
  w->current = p;
  job_poll(walk_job(w));
  int64_t opset = opset_of(w, p->domain);
  const OnnxFunction *fn = strmap_find(&w->functions, op_key(w, p->domain, p->op_type));
  if (!fn && !opset)
    job_abort(walk_job(w),
              FAIL(INVALID_ARGUMENT, "the model imports no opset of domain '" STR_FMT "'",
                   STR_ARG(p->domain)));
  const OnnxOp *op = fn ? NULL : find_op(w, p, opset);
  if (op) check_arity(w, op, p);
  Node n = make_node(w, p, opset);
  if (op) check_sizes(w, op, &n);
  if (fn)
    call_function(w, &n, fn);
  else
    op->fn(&n);
  w->current = p;
  for (size_t i = 0; i < n.nout; i++) {
    if (!p->output.at[i].len) continue;
    if (!n.out[i])
      job_abort(walk_job(w), FAIL(UNIMPLEMENTED, "output %zu ('" STR_FMT "') is not supported", i,
                                  STR_ARG(p->output.at[i])));
    define(w, p->output.at[i], n.out[i]);
  }
}

/* -- order ----------------------------------------------------------------------------------- */

typedef struct Deps {
  Str *at;
  size_t len, cap;
} Deps;

/* A subgraph's own name for an argument hides a name from outside. */
static bool is_formal(const OnnxGraph *g, Str name) {
  for (size_t i = 0; i < g->input.n; i++)
    if (str_eq(g->input.at[i].name, name)) return true;
  return false;
}

static void add_deps(OnnxWalk *w, const OnnxNode *p, Deps *deps, unsigned depth) {
  Arena *arena = &walk_job(w)->arena;
  if (depth > CALL_DEPTH)
    job_abort(walk_job(w), FAIL(RESOURCE_EXHAUSTED, "graphs nested deeper than %d", CALL_DEPTH));
  for (size_t i = 0; i < p->input.n; i++) avec_push(arena, deps, p->input.at[i]);
  for (size_t i = 0; i < p->attribute.n; i++) {
    const OnnxGraph *g = p->attribute.at[i].g;
    if (!g) continue;
    size_t before = deps->len, kept = before;
    for (size_t k = 0; k < g->node.n; k++) add_deps(w, &g->node.at[k], deps, depth + 1);
    for (size_t k = 0; k < g->output.n; k++) avec_push(arena, deps, g->output.at[k].name);
    for (size_t k = before; k < deps->len; k++)
      if (!is_formal(g, deps->at[k])) deps->at[kept++] = deps->at[k];
    deps->len = kept;
  }
}

typedef struct Visit {
  size_t node;
  Deps deps;
  size_t next;
} Visit;

typedef struct Order {
  const OnnxNode *nodes;
  uint8_t *state; /* 0 new, 1 on the stack, 2 done */
  struct {
    Visit *at;
    size_t len, cap;
  } stack;
  struct {
    const OnnxNode **at;
    size_t len, cap;
  } sorted;
} Order;

static void visit(OnnxWalk *w, Order *o, Str name) {
  const OnnxNode *p = strmap_find(&w->producers, name);
  if (!p) return; /* an initializer, an input, an outer name, or missing: found out later */
  size_t i = (size_t)(p - o->nodes);
  if (o->state[i] == 1) {
    w->current = p;
    job_abort(walk_job(w),
              FAIL(INVALID_ARGUMENT, "the graph has a cycle through '" STR_FMT "'", STR_ARG(name)));
  }
  if (o->state[i]) return;
  o->state[i] = 1;
  Visit v = {.node = i};
  add_deps(w, p, &v.deps, 0);
  avec_push(&walk_job(w)->arena, &o->stack, v);
}

static void run_stack(OnnxWalk *w, Order *o) {
  while (o->stack.len) {
    Visit *v = &o->stack.at[o->stack.len - 1];
    if (v->next < v->deps.len) {
      visit(w, o, v->deps.at[v->next++]);
      continue;
    }
    o->state[v->node] = 2;
    avec_push(&walk_job(w)->arena, &o->sorted, &o->nodes[v->node]);
    o->stack.len--;
  }
}

/* The nodes that `wanted` needs, sources first. */
static Order sort_nodes(OnnxWalk *w, const OnnxNode *nodes, size_t n, const Str *wanted,
                        size_t nwanted) {
  Order o = {.nodes = nodes, .state = arena_alloc(&walk_job(w)->arena, n)};
  strmap_deinit(&w->producers);
  w->producers = (StrMap){0};
  for (size_t i = 0; i < n; i++) {
    w->current = &nodes[i];
    for (size_t k = 0; k < nodes[i].output.n; k++) {
      Str name = nodes[i].output.at[k];
      if (!name.len) continue;
      if (strmap_find(&w->producers, name) || strmap_find(&w->scope->names, name))
        job_abort(walk_job(w),
                  FAIL(INVALID_ARGUMENT, "the name '" STR_FMT "' is defined twice", STR_ARG(name)));
      put(w, &w->producers, name, (void *)(uintptr_t)&nodes[i]);
    }
  }
  w->current = NULL;
  for (size_t i = 0; i < nwanted; i++) {
    visit(w, &o, wanted[i]);
    run_stack(w, &o);
  }
  return o;
}

static void convert_nodes(OnnxWalk *w, const OnnxNode *nodes, size_t n, const Str *wanted,
                          size_t nwanted) {
  const OnnxNode *outer = w->current;
  Order o = sort_nodes(w, nodes, n, wanted, nwanted);
  for (size_t i = 0; i < o.sorted.len; i++) convert_node(w, o.sorted.at[i]);
  w->current = outer;
}

static Str *output_names(OnnxWalk *w, const OnnxGraph *g) {
  Str *names = arena_array(&walk_job(w)->arena, g->output.n, sizeof *names);
  for (size_t i = 0; i < g->output.n; i++) names[i] = g->output.at[i].name;
  return names;
}

/* -- graphs ---------------------------------------------------------------------------------- */

static void add_initializers(OnnxWalk *w, const OnnxGraph *g) {
  Job *job = walk_job(w);
  if (g->sparse_initializer.n)
    job_abort(job, FAIL(UNIMPLEMENTED, "sparse initializers are not supported"));
  for (size_t i = 0; i < g->initializer.n; i++) {
    const OnnxTensor *t = &g->initializer.at[i];
    const char *what = arena_printf(&job->arena, "initializer '" STR_FMT "'", STR_ARG(t->name));
    if (!t->name.len) job_abort(job, FAIL(INVALID_ARGUMENT, "initializer %zu has no name", i));
    define(w, t->name, onnx_tensor(&w->front, t, what));
  }
}

static void collect(OnnxWalk *w, const Str *names, size_t n, Val **results) {
  for (size_t i = 0; i < n; i++) {
    results[i] = find_name(w, names[i]);
    if (!results[i])
      job_abort(walk_job(w),
                FAIL(INVALID_ARGUMENT, "output '" STR_FMT "' is not defined", STR_ARG(names[i])));
  }
}

void onnx_subgraph(Node *n, const OnnxGraph *g, Val **args, size_t nargs, Val **results) {
  OnnxWalk *w = n->walk;
  Scope *outer = w->scope;
  enter(w, outer);
  if (g->input.n != nargs)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "subgraph '" STR_FMT "' has %zu inputs, expected %zu",
                           STR_ARG(g->name), g->input.n, nargs));
  for (size_t i = 0; i < nargs; i++) define(w, g->input.at[i].name, args[i]);
  add_initializers(w, g);
  const Str *names = output_names(w, g);
  convert_nodes(w, g->node.at, g->node.n, names, g->output.n);
  collect(w, names, g->output.n, results);
  leave(w, outer);
}

typedef struct Attempt {
  Node *n;
  const OnnxGraph *g;
  Val **results;
} Attempt;

static void attempt(Job *job, void *arg) {
  (void)job;
  Attempt *a = arg;
  onnx_subgraph(a->n, a->g, NULL, 0, a->results);
}

Status onnx_try_subgraph(Node *n, const OnnxGraph *g, UOp *guard, Val **results) {
  UOp *outer = n->f->guard;
  OnnxPlace place = onnx_place(n);
  n->f->guard = outer ? build2(n->job, OP_AND, outer, guard) : guard;
  Attempt a = {n, g, results};
  Status st = job_try(n->job, attempt, &a);
  n->f->guard = outer;
  if (!st) return NULL;
  st = name_node(n->walk, st); /* the node that failed */
  onnx_return(n, place);
  return st;
}

OnnxPlace onnx_place(const Node *n) {
  const OnnxWalk *w = n->walk;
  return (OnnxPlace){.made = front_mark(&w->front),
                     .scope = w->scope,
                     .current = w->current,
                     .opsets = w->opsets,
                     .nopsets = w->nopsets,
                     .depth = w->depth};
}

void onnx_return(Node *n, OnnxPlace place) {
  OnnxWalk *w = n->walk;
  front_rewind(&w->front, place.made);
  w->scope = place.scope;
  w->current = place.current;
  w->opsets = place.opsets;
  w->nopsets = place.nopsets;
  w->depth = place.depth;
}

/* -- functions ------------------------------------------------------------------------------- */

static const OnnxAttribute *find_attribute(const OnnxAttribute *at, size_t n, Str name) {
  for (size_t i = 0; i < n; i++)
    if (str_eq(at[i].name, name)) return &at[i];
  return NULL;
}

/* A copy of a function's node with references to the call's attributes resolved; an attribute that
 * the call does not have and that has no default disappears. */
static void instantiate(OnnxWalk *w, const OnnxNode *p, const OnnxNode *call,
                        const OnnxFunction *fn, OnnxNode *out) {
  *out = *p;
  out->attribute.at = arena_array(&walk_job(w)->arena, p->attribute.n, sizeof *p->attribute.at);
  out->attribute.n = 0;
  for (size_t i = 0; i < p->attribute.n; i++) {
    OnnxAttribute a = p->attribute.at[i];
    if (a.ref_attr_name.len) {
      Str name = a.name, ref = a.ref_attr_name;
      const OnnxAttribute *v = find_attribute(call->attribute.at, call->attribute.n, ref);
      if (!v) v = find_attribute(fn->attribute_proto.at, fn->attribute_proto.n, ref);
      if (!v) continue;
      a = *v;
      a.name = name;
    }
    out->attribute.at[out->attribute.n++] = a;
  }
}

static void call_function(OnnxWalk *w, Node *n, const OnnxFunction *fn) {
  Job *job = walk_job(w);
  Scope *outer = w->scope;
  const OnnxOpset *opsets = w->opsets;
  size_t nopsets = w->nopsets;
  if (n->nin > fn->input.n || n->nout > fn->output.n)
    job_abort(job, FAIL(INVALID_ARGUMENT,
                        "function has %zu inputs and %zu outputs, called with %zu and %zu",
                        fn->input.n, fn->output.n, n->nin, n->nout));
  enter(w, NULL);
  for (size_t i = 0; i < n->nin; i++)
    if (n->in[i]) define(w, fn->input.at[i], n->in[i]);
  OnnxNode *nodes = arena_array(&job->arena, fn->node.n, sizeof *nodes);
  for (size_t i = 0; i < fn->node.n; i++) instantiate(w, &fn->node.at[i], n->proto, fn, &nodes[i]);
  w->opsets = fn->opset_import.at;
  w->nopsets = fn->opset_import.n;
  convert_nodes(w, nodes, fn->node.n, fn->output.at, n->nout);
  collect(w, fn->output.at, n->nout, n->out);
  w->opsets = opsets;
  w->nopsets = nopsets;
  leave(w, outer);
}

/* -- the model ------------------------------------------------------------------------------- */

static void check_opsets(OnnxWalk *w) {
  for (size_t i = 0; i < w->model.opset_import.n; i++) {
    const OnnxOpset *o = &w->model.opset_import.at[i];
    if (normal_domain(o->domain).len) continue;
    if (o->version < 1 || o->version > OPSET_MAX)
      job_abort(walk_job(w), FAIL(UNIMPLEMENTED, "the model uses opset %lld; supported are 1 to %d",
                                  (long long)o->version, OPSET_MAX));
  }
  if (!w->model.opset_import.n)
    job_abort(walk_job(w), FAIL(INVALID_ARGUMENT, "the model imports no opset"));
  w->opsets = w->model.opset_import.at;
  w->nopsets = w->model.opset_import.n;
}

static void convert_model(Job *job, void *arg) {
  OnnxWalk *w = arg;
  Status st = onnx_decode(&job->arena, w->front.model, &w->model);
  if (st) job_abort(job, WRAP(st, "not a valid ONNX model"));
  const OnnxGraph *g = w->model.graph;
  if (!g) job_abort(job, FAIL(INVALID_ARGUMENT, "not a valid ONNX model: it has no graph"));
  check_opsets(w);
  register_ops(w);
  for (size_t i = 0; i < w->model.functions.n; i++) {
    OnnxFunction *fn = &w->model.functions.at[i];
    put(w, &w->functions, op_key(w, fn->domain, fn->name), fn);
  }
  enter(w, NULL);
  add_initializers(w, g);
  for (size_t i = 0; i < g->input.n; i++) {
    Str name = g->input.at[i].name;
    if (strmap_find(&w->scope->names, name)) continue;
    define(w, name, onnx_input(&w->front, name, g->input.at[i].type));
  }
  front_dims_used(&w->front);
  if (!g->output.n) job_abort(job, FAIL(INVALID_ARGUMENT, "the model has no outputs"));
  const Str *names = output_names(w, g);
  Val **results = arena_array(&job->arena, g->output.n, sizeof(Val *));
  convert_nodes(w, g->node.at, g->node.n, names, g->output.n);
  collect(w, names, g->output.n, results);
  for (size_t i = 0; i < g->output.n; i++) onnx_output(&w->front, names[i], results[i]);
  front_finish(&w->front, w->out);
}

static Status name_node(OnnxWalk *w, Status st) {
  const OnnxNode *p = w->current;
  if (!p) return st;
  Str domain = normal_domain(p->domain), name = p->name;
  if (!name.len && p->output.n) name = p->output.at[0];
  return WRAP(st, "node '" STR_FMT "' (" STR_FMT "%s" STR_FMT ", opset %lld)", STR_ARG(name),
              STR_ARG(domain), domain.len ? "." : "", STR_ARG(p->op_type),
              (long long)opset_of(w, p->domain));
}

Status frontend_onnx(Job *job, Bytes model, const FrontendOptions *options, TensorGraph *out) {
  *out = (TensorGraph){0};
  OnnxWalk walk = {.front = {.job = job, .model = model, .options = options}, .out = out};
  OnnxWalk *w = &walk;
  job->frontend = &w->front;
  Status st = job_run(job, convert_model, w);
  job->frontend = NULL;
  if (st) {
    st = name_node(w, st);
    strbuf_deinit(&out->constants);
  }
  strmap_deinit(&w->ops);
  strmap_deinit(&w->functions);
  strmap_deinit(&w->producers);
  for (Scope *s = w->scopes; s; s = s->all) strmap_deinit(&s->names);
  return st;
}
