/* Inputs and outputs of a model.
 *
 * What a run exchanges are tensors. A sequence called NAME is therefore the tensors NAME[0],
 * NAME[1], ...; how many, is fixed when the model is compiled: the request binds "NAME.length".
 * Its elements may differ in size, so their open dimensions have names of their own, NAME[K].AXIS.
 * An optional is its value, or nothing at all when the request binds "NAME.present" to 0. A tensor
 * whose type gives no shape takes its rank from "NAME.rank", and then sizes like any other. */
#include "compiler/frontend/onnx_graph.h"

enum { MAX_LENGTH = 1 << 16 };

/* A number that the request binds as NAME.PROPERTY; `absent` when it does not, and -1 then means
 * that it has to. */
static int64_t property(Front *f, Str name, const char *what, int64_t absent, int64_t max) {
  Job *job = f->job;
  const char *full = arena_printf(&job->arena, STR_FMT ".%s", STR_ARG(name), what);
  int64_t v = front_binding(f, str_from(full), absent);
  if (v < 0)
    job_abort(job, FAIL(INVALID_ARGUMENT, "input '" STR_FMT "' has no %s: bind it (--dim %s=N)",
                        STR_ARG(name), what, full));
  if (v > max)
    job_abort(job, FAIL(INVALID_ARGUMENT, "'%s' is bound to %lld, at most %lld", full, (long long)v,
                        (long long)max));
  return v;
}

static void record(Front *f, Str name, bool output, bool none, size_t length) {
  GraphValue v = {.name = name, .output = output, .none = none, .length = length};
  avec_push(&f->job->arena, &f->values, v);
}

static Str element(Front *f, Str name, size_t k) {
  return str_from(arena_printf(&f->job->arena, STR_FMT "[%zu]", STR_ARG(name), k));
}

/* named: dim_param names count; elements of a sequence that share one may still differ. */
static Val *tensor_input(Front *f, Str name, const OnnxTensorType *t, bool named) {
  Job *job = f->job;
  int64_t dims[MAX_RANK];
  static const OnnxDim open = {0};
  size_t rank = t->shape ? t->shape->dim.n : (size_t)property(f, name, "rank", -1, MAX_RANK);
  if (rank > MAX_RANK)
    job_abort(job, FAIL(INVALID_ARGUMENT, "input '" STR_FMT "' has rank %zu, at most %d",
                        STR_ARG(name), rank, MAX_RANK));
  for (size_t i = 0; i < rank; i++) {
    const OnnxDim *d = t->shape ? &t->shape->dim.at[i] : &open;
    /* Some exporters write -1 for a dimension that is open. */
    bool fixed = (d->seen & ONNX_DIM_VALUE) && d->dim_value != -1;
    if (fixed && d->dim_value < 0)
      job_abort(job, FAIL(INVALID_ARGUMENT, "input '" STR_FMT "': dimension %zu is negative",
                          STR_ARG(name), i));
    /* "?" is what other exporters call every open dimension. */
    bool own = !named || str_is(d->dim_param, "?");
    dims[i] =
        fixed ? d->dim_value : front_dim(f, name, i, own ? STR("") : d->dim_param, (DimRange){0});
  }
  const char *what = arena_printf(&job->arena, "input '" STR_FMT "'", STR_ARG(name));
  DType dtype = onnx_dtype(job, t->elem_type);
  Ints shape = shape_make(dims, rank);
  shape_check(job, shape, MAX_TENSOR / dtype_info[dtype].bytes, what);
  return front_input(f, name, dtype, shape);
}

static Val *sequence_input(Front *f, Str name, const OnnxType *of) {
  if (!of || !of->tensor_type)
    job_abort(f->job, FAIL(UNIMPLEMENTED,
                           "input '" STR_FMT "' is a sequence of something other "
                           "than tensors",
                           STR_ARG(name)));
  size_t n = (size_t)property(f, name, "length", -1, MAX_LENGTH);
  Val **items = arena_array(&f->job->arena, n, sizeof *items);
  for (size_t k = 0; k < n; k++)
    items[k] = tensor_input(f, element(f, name, k), of->tensor_type, false);
  record(f, name, false, false, n);
  return val_sequence(f, onnx_dtype(f->job, of->tensor_type->elem_type), items, n);
}

Val *onnx_input(Front *f, Str name, const OnnxType *type) {
  Val *v = NULL;
  if (type && type->optional_type) {
    type = type->optional_type->elem_type;
    if (!property(f, name, "present", 1, 1)) {
      record(f, name, false, true, 0);
      v = val_none(f);
    }
  }
  if (!v && type && type->tensor_type) v = tensor_input(f, name, type->tensor_type, true);
  if (!v && type && type->sequence_type)
    v = sequence_input(f, name, type->sequence_type->elem_type);
  if (!v)
    job_abort(f->job, FAIL(UNIMPLEMENTED,
                           "input '" STR_FMT "' is not a tensor, a sequence of tensors or an "
                           "optional of these",
                           STR_ARG(name)));
  v->name = name;
  return v;
}

void onnx_output(Front *f, Str name, Val *v) {
  if (v->kind == VAL_TENSOR) {
    front_output(f, name, val_uop(f, v));
    return;
  }
  for (size_t k = 0; k < v->nitems; k++)
    front_output(f, element(f, name, k), val_uop(f, v->items[k]));
  record(f, name, true, v->kind == VAL_NONE, v->nitems);
}
