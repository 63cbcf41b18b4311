/* Loading makes the new tenants first and changes the table only when memory has lasted; pointers
 * to tenants stay valid over every reload. */
#include "daemon/server/tenant.h"

#include <stdio.h>
#include <stdlib.h>

#include "daemon/server/config.h"

static const struct {
  const char *name;
  unsigned role;
} roles[] = {{"run", ROLE_RUN},
             {"tune", ROLE_TUNE},
             {"cache-write", ROLE_CACHE_WRITE},
             {"admin", ROLE_ADMIN},
             {"all", ROLE_ALL}};
enum { NROLES = sizeof roles / sizeof *roles };

Status roles_parse(const char *text, unsigned *out) {
  *out = 0;
  for (const char *at = text; *(at += strspn(at, " ,"));) {
    size_t n = strcspn(at, " ,"), i = 0;
    while (i < NROLES && !str_is((Str){at, n}, roles[i].name)) i++;
    if (i == NROLES)
      return FAIL(INVALID_ARGUMENT,
                  "unknown role '%.*s'; expected run, tune, cache-write, admin "
                  "or all",
                  (int)(n > 64 ? 64 : n), at);
    *out |= roles[i].role;
    at += n;
  }
  return NULL;
}

const char *roles_text(unsigned set, char buf[ROLES_TEXT]) {
  size_t n = 0;
  buf[0] = 0;
  for (size_t i = 0; i + 1 < NROLES; i++)
    if (set & roles[i].role)
      n += (size_t)snprintf(buf + n, ROLES_TEXT - n, "%s%s", n ? ", " : "", roles[i].name);
  return buf;
}

/* -- the table ----------------------------------------------------------------------------------
 */

static Tenant *find(const TenantTable *t, const char *name) {
  for (Tenant *at = t->first; at; at = at->next)
    if (!strcmp(at->name, name)) return at;
  return NULL;
}

Tenant *tenants_find(const TenantTable *t, const char *name) {
  Tenant *found = find(t, name);
  return found && !found->retired ? found : NULL;
}

/* Appends; it is retired until somebody says otherwise. */
static Status add(TenantTable *t, const char *name) {
  Tenant **last = &t->first, *made = calloc(1, sizeof *made);
  char *copy = strdup(name);
  if (!made || !copy) {
    free(made);
    free(copy);
    return FAIL(RESOURCE_EXHAUSTED, "tenants");
  }
  while (*last) last = &(*last)->next;
  *made = (Tenant){.name = copy, .id = ++t->len, .weight = 1, .retired = true};
  *last = made;
  return NULL;
}

static void set(Tenant *t, const TenantSpec *spec) {
  t->roles = spec->roles;
  t->weight = (uint32_t)spec->weight;
  t->shares_cache = spec->shares_cache;
  t->quota = spec->quota;
  t->retired = false;
}

Status tenants_load(TenantTable *t, const Config *c) {
  static const TenantSpec local = {.roles = ROLE_ALL, .weight = 1, .shares_cache = true};
  t->nobody.name = "nobody";
  t->nobody.weight = 1;
  for (size_t i = 0; i < c->ntenants; i++)
    if (!find(t, c->tenants[i].name)) TRY(add(t, c->tenants[i].name));
  if (!c->ntenants && !find(t, "local")) TRY(add(t, "local"));
  for (Tenant *at = t->first; at; at = at->next) at->retired = true;
  for (size_t i = 0; i < c->ntenants; i++) set(find(t, c->tenants[i].name), &c->tenants[i]);
  t->local = c->ntenants ? NULL : find(t, "local");
  if (t->local) set(t->local, &local);
  t->generation++;
  return NULL;
}

void tenants_deinit(TenantTable *t) {
  for (Tenant *at; (at = t->first);) {
    t->first = at->next;
    free((char *)(uintptr_t)at->name);
    free(at);
  }
  *t = (TenantTable){.first = NULL};
}
