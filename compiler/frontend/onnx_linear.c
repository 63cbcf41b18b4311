/* Matrix products: MatMul, Gemm, their integer forms, Einsum. */
#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_node.h"

static void op_matmul(Node *n) { node_out(n, 0, build_matmul(n->job, node_u(n, 0), node_u(n, 1))); }

/* alpha * A' B' + beta * C. Factors of 1 leave no trace. */
UOp *linear_gemm(Node *n) {
  UOp *a = node_u(n, 0), *b = node_u(n, 1), *c = node_opt(n, 2);
  double alpha = attr_float(n, "alpha", 1), beta = attr_float(n, "beta", 1);
  if (a->shape.n != 2 || b->shape.n != 2)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "sources of shapes %s and %s, expected matrices",
                           shape_text(n->job, a->shape), shape_text(n->job, b->shape)));
  if (attr_int(n, "transA", 0)) a = build_transpose(n->job, a, 0, 1);
  if (attr_int(n, "transB", 0)) b = build_transpose(n->job, b, 0, 1);
  UOp *y = build_matmul(n->job, a, b);
  if (alpha != 1) y = build2(n->job, OP_MUL, y, build_num(n->job, y, alpha));
  if (c && beta != 0) {
    if (beta != 1) c = build2(n->job, OP_MUL, c, build_num(n->job, c, beta));
    y = build2(n->job, OP_ADD, y, build_expand(n->job, c, y->shape));
  }
  return y;
}

static void op_gemm(Node *n) { node_out(n, 0, linear_gemm(n)); }

/* Zero points: a scalar, or one per row of A / column of B. */
static void op_matmul_integer(Node *n) {
  UOp *za = node_opt(n, 2);
  if (za && za->shape.n == 1 && za->shape.at[0] != 1) za = build_unsqueeze(n->job, za, 1);
  node_out(n, 0, build_matmul_centred(n->job, node_u(n, 0), za, node_u(n, 1), node_opt(n, 3)));
}

/* -- Einsum ---------------------------------------------------------------------------------- */

enum { MAX_LABELS = MAX_RANK };
enum { ELLIPSIS = 1 }; /* label of the first axis of an ellipsis; the next ones follow */

typedef struct Labels {
  int at[2 * MAX_DIMS]; /* letter, or ELLIPSIS + k */
  size_t n;
} Labels;

typedef struct Einsum {
  Node *node;
  Labels all; /* result labels first, then the summed ones */
  size_t nout;
  size_t dots; /* axes that an ellipsis stands for */
} Einsum;

static _Noreturn void bad_equation(Node *n, const char *why) {
  job_abort(n->job, FAIL(INVALID_ARGUMENT, "equation '" STR_FMT "': %s",
                         STR_ARG(attr_str(n, "equation", "")), why));
}

static bool is_letter(unsigned char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* The labels of one term; `rank` axes (SIZE_MAX: the result, whose ellipsis has e->dots axes). */
static Labels parse_term(Einsum *e, Str term, size_t rank) {
  Labels l = {0};
  size_t letters = 0;
  for (size_t i = 0; i < term.len; i++) letters += term.ptr[i] != ' ' && term.ptr[i] != '.';
  size_t dots = rank == SIZE_MAX ? e->dots : rank > letters ? rank - letters : 0;
  for (size_t i = 0; i < term.len; i++) {
    unsigned char ch = (unsigned char)term.ptr[i];
    if (ch == ' ') continue;
    if (l.n + 1 >= MAX_DIMS || dots > MAX_RANK) bad_equation(e->node, "too many labels");
    if (is_letter(ch)) {
      l.at[l.n++] = ch;
    } else if (i + 2 < term.len && !memcmp(term.ptr + i, "...", 3)) {
      i += 2;
      /* right-aligned, so that ellipses of different ranks broadcast */
      for (size_t k = dots; k-- > 0;) l.at[l.n++] = ELLIPSIS + (int)k;
      if (dots > e->dots) e->dots = dots;
    } else {
      bad_equation(e->node, "not a letter, '...', ',' or '->'");
    }
  }
  if (rank != SIZE_MAX && l.n != rank)
    bad_equation(e->node, "a term does not fit its source's rank");
  return l;
}

static bool has_label(const Labels *l, int label) {
  for (size_t i = 0; i < l->n; i++)
    if (l->at[i] == label) return true;
  return false;
}

/* x with axes of equal labels replaced by their diagonal. */
static UOp *diagonal(Einsum *e, UOp *x, Labels *l) {
  Job *job = e->node->job;
  for (size_t i = 0; i < l->n; i++) {
    for (size_t k = i + 1; k < l->n; k++) {
      if (l->at[k] != l->at[i]) continue;
      if (!build_may_equal(x->shape.at[i], x->shape.at[k]))
        bad_equation(e->node, "a diagonal that is not square");
      x = build_fit(job, x, k, x->shape.at[i]);
      UOp *a = build_iota(job, DT_I64, i, x->shape), *b = build_iota(job, DT_I64, k, x->shape);
      UOp *on = build2(job, OP_CMPEQ, a, b);
      x = build_where(job, on, x, build_num(job, x, 0));
      x = build_reduce(job, OP_ADD, x, axis_bit(k), false);
      for (size_t m = k; m + 1 < l->n; m++) l->at[m] = l->at[m + 1];
      l->n--;
      k--;
    }
  }
  return x;
}

/* x with one axis per label of e->all, size 1 where it has none. */
static UOp *align(Einsum *e, UOp *x, const Labels *l) {
  int64_t order[MAX_DIMS], dims[MAX_DIMS];
  size_t n = 0;
  for (size_t i = 0; i < e->all.n; i++) {
    dims[i] = 1;
    for (size_t k = 0; k < l->n; k++) {
      if (l->at[k] != e->all.at[i]) continue;
      order[n++] = (int64_t)k;
      dims[i] = x->shape.at[k];
    }
  }
  x = build_permute(e->node->job, x, order, n);
  return build_reshape(e->node->job, x, shape_make(dims, e->all.n));
}

static void add_label(Einsum *e, int label) {
  if (e->all.n >= MAX_LABELS) bad_equation(e->node, "too many labels");
  e->all.at[e->all.n++] = label;
}

/* Without "->" the result has the ellipsis and, sorted, the labels that occur once. */
static void implicit_result(Einsum *e, const Labels *terms, size_t nterms) {
  for (size_t k = e->dots; k-- > 0;) add_label(e, ELLIPSIS + (int)k);
  for (int c = 'A'; c <= 'z'; c++) {
    size_t count = 0;
    for (size_t t = 0; t < nterms; t++)
      for (size_t i = 0; i < terms[t].n; i++) count += terms[t].at[i] == c;
    if (count == 1) add_label(e, c);
  }
}

static Labels *parse_sources(Einsum *e, Str eq, size_t *at) {
  Node *n = e->node;
  Labels *terms = arena_array(&n->job->arena, n->nin, sizeof *terms);
  for (size_t t = 0; t < n->nin; t++) {
    size_t start = *at;
    while (*at < eq.len && eq.ptr[*at] != ',' && eq.ptr[*at] != '-') ++*at;
    terms[t] = parse_term(e, (Str){eq.ptr + start, *at - start}, node_u(n, t)->shape.n);
    bool comma = *at < eq.len && eq.ptr[*at] == ',';
    if (comma != (t + 1 < n->nin)) bad_equation(n, "as many terms as sources are needed");
    if (comma) ++*at;
  }
  return terms;
}

static void op_einsum(Node *n) {
  Einsum e = {.node = n};
  Str eq = attr_str(n, "equation", "");
  size_t at = 0;
  Labels *terms = parse_sources(&e, eq, &at);
  if (at < eq.len) {
    if (at + 1 >= eq.len || eq.ptr[at + 1] != '>') bad_equation(n, "'-' without '>'");
    Labels out = parse_term(&e, (Str){eq.ptr + at + 2, eq.len - at - 2}, SIZE_MAX);
    for (size_t i = 0; i < out.n; i++) {
      if (has_label(&e.all, out.at[i])) bad_equation(n, "a result label occurs twice");
      add_label(&e, out.at[i]);
    }
  } else {
    implicit_result(&e, terms, n->nin);
  }
  e.nout = e.all.n;
  for (size_t t = 0; t < n->nin; t++)
    for (size_t i = 0; i < terms[t].n; i++)
      if (!has_label(&e.all, terms[t].at[i])) add_label(&e, terms[t].at[i]);
  UOp *y = NULL;
  for (size_t t = 0; t < n->nin; t++) {
    UOp *x = diagonal(&e, node_u(n, t), &terms[t]);
    x = align(&e, x, &terms[t]);
    y = y ? build2(n->job, OP_MUL, y, x) : x;
  }
  uint32_t summed = 0;
  for (size_t i = e.nout; i < e.all.n; i++) summed |= axis_bit(i);
  node_out(n, 0, build_reduce(n->job, OP_ADD, y, summed, false));
}

const OnnxOp onnx_linear_ops[] = {
    {"", "MatMul", 1, 2, 2, op_matmul},
    {"", "Gemm", 1, 2, 3, op_gemm},
    {"", "MatMulInteger", 10, 2, 4, op_matmul_integer},
    {"", "Einsum", 12, 1, 255, op_einsum},
    {0},
};
