/* The file is written beside its place and linked there, so that of two processes that start at
 * once one makes the key and the other reads it, and neither sees half a file. */
#include "proto/node_key.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/digest.h"

static const char prefix[] = "ed25519:";

struct NodeKey {
  EVP_PKEY *pair;
  uint8_t node[NODE_KEY_BYTES];
};

void node_key_release(NodeKey *k) {
  if (!k) return;
  EVP_PKEY_free(k->pair);
  free(k);
}

/* -- the file ---------------------------------------------------------------------------------- */

static Status write_pair(int fd, EVP_PKEY *pair, const char *path) {
  FILE *f = fdopen(fd, "w");
  if (!f) {
    close(fd);
    return FAIL(RESOURCE_EXHAUSTED, "'%s': %s", path, strerror(errno));
  }
  bool whole = PEM_write_PrivateKey(f, pair, NULL, NULL, 0, NULL, NULL) == 1 && !fflush(f) &&
               !fsync(fileno(f));
  bool closed = !fclose(f);
  return whole && closed ? NULL : FAIL(UNAVAILABLE, "writing '%s' failed", path);
}

/* Somebody else may make it at the same time: then his is as good. */
static Status make_file(const char *path) {
  char beside[4096];
  if ((size_t)snprintf(beside, sizeof beside, "%s.%d", path, (int)getpid()) >= sizeof beside)
    return FAIL(INVALID_ARGUMENT, "the path of the node's key is too long");
  EVP_PKEY *pair = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
  if (!pair) return FAIL(INTERNAL, "making an Ed25519 key failed");
  int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  Status st = fd < 0 ? FAIL(PERMISSION_DENIED, "making '%s': %s", beside, strerror(errno))
                     : write_pair(fd, pair, beside);
  EVP_PKEY_free(pair);
  if (!st && link(beside, path) && errno != EEXIST)
    st = FAIL(PERMISSION_DENIED, "making '%s': %s", path, strerror(errno));
  if (fd >= 0) unlink(beside);
  return st;
}

static Status read_pair(FILE *f, const char *path, NodeKey *k) {
  struct stat s;
  size_t n = NODE_KEY_BYTES;
  if (fstat(fileno(f), &s) || !S_ISREG(s.st_mode))
    return FAIL(FAILED_PRECONDITION, "the node's key '%s' is no regular file", path);
  if (s.st_mode & 077)
    return FAIL(PERMISSION_DENIED,
                "the node's key '%s' can be read by others (mode %03o): chmod 600 it, or remove it "
                "for a new one",
                path, (unsigned)(s.st_mode & 0777));
  k->pair = PEM_read_PrivateKey(f, NULL, NULL, (void *)(uintptr_t) "");
  if (!k->pair || !EVP_PKEY_is_a(k->pair, "ED25519") ||
      !EVP_PKEY_get_raw_public_key(k->pair, k->node, &n) || n != NODE_KEY_BYTES)
    return FAIL(FAILED_PRECONDITION, "'%s' holds no Ed25519 private key in PEM", path);
  return NULL;
}

Status node_key_load(const char *path, NodeKey **out) {
  *out = NULL;
  if (access(path, F_OK) && errno == ENOENT) TRY(make_file(path));
  FILE *f = fopen(path, "re");
  if (!f) return FAIL(PERMISSION_DENIED, "the node's key '%s': %s", path, strerror(errno));
  NodeKey *k = calloc(1, sizeof *k);
  Status st = k ? read_pair(f, path, k) : FAIL(RESOURCE_EXHAUSTED, "the node's key");
  fclose(f);
  if (st) {
    node_key_release(k);
    return st;
  }
  *out = k;
  return NULL;
}

/* -- signatures -------------------------------------------------------------------------------- */

const uint8_t *node_key_public(const NodeKey *k) { return k->node; }

Status node_key_sign(const NodeKey *k, Bytes text, uint8_t signature[NODE_SIGNATURE_BYTES]) {
  size_t n = NODE_SIGNATURE_BYTES;
  EVP_MD_CTX *c = EVP_MD_CTX_new();
  bool made = c && EVP_DigestSignInit(c, NULL, NULL, NULL, k->pair) == 1 &&
              EVP_DigestSign(c, signature, &n, text.ptr, text.len) == 1 &&
              n == NODE_SIGNATURE_BYTES;
  EVP_MD_CTX_free(c);
  return made ? NULL : FAIL(INTERNAL, "signing %zu bytes failed", text.len);
}

bool node_key_verify(const uint8_t node[NODE_KEY_BYTES], Bytes text,
                     const uint8_t signature[NODE_SIGNATURE_BYTES]) {
  EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, node, NODE_KEY_BYTES);
  EVP_MD_CTX *c = EVP_MD_CTX_new();
  bool holds = key && c && EVP_DigestVerifyInit(c, NULL, NULL, NULL, key) == 1 &&
               EVP_DigestVerify(c, signature, NODE_SIGNATURE_BYTES, text.ptr, text.len) == 1;
  EVP_MD_CTX_free(c);
  EVP_PKEY_free(key);
  return holds;
}

/* -- names ------------------------------------------------------------------------------------- */

const char *node_key_text(const uint8_t node[NODE_KEY_BYTES], char buf[NODE_KEY_TEXT]) {
  memcpy(buf, prefix, sizeof prefix);
  digest_to_hex(node, NODE_KEY_BYTES, buf + sizeof prefix - 1);
  return buf;
}

bool node_key_parse(Str text, uint8_t node[NODE_KEY_BYTES]) {
  size_t n = sizeof prefix - 1;
  if (text.len < n || memcmp(text.ptr, prefix, n) != 0) return false;
  return digest_from_hex((Str){text.ptr + n, text.len - n}, node, NODE_KEY_BYTES);
}
