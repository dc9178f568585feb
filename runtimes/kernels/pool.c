/* Threads: the host's, or a small pool of our own that spins for a moment between two calls, since a decoded token has
 * hundreds of them; and each thread's scratch memory. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <immintrin.h>
#define RELAX() _mm_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ __volatile__("yield")
#else
#define RELAX() ((void)0)
#endif

#include "format.h"

/* Some 50 us on a CPU of today, longer than what lies between two products. */
#define SPINS 20000

void edge_parallel(const edge_pool *pool, size_t count, edge_task task, void *context) {
  if (pool && count > 1) {
    pool->run(pool->self, count, task, context);
    return;
  }
  for (size_t i = 0; i < count; i++) task(context, i);
}

/* `left` counts tasks down: whoever takes it from n to n - 1 runs task n - 1, and below 1 there is nothing to take. So a thread
 * that wakes late does no harm and nobody waits for it, only for tasks that were begun. */
typedef struct own_pool {
  edge_pool face; /* first: the two have one address */
  pthread_mutex_t lock, callers;
  pthread_cond_t wake;
  atomic_size_t round;
  atomic_long left, done;
  edge_task task;
  void *context;
  atomic_int stop;
  size_t started, asleep;
  pthread_t threads[];
} own_pool;

static void take(own_pool *pool) {
  for (long i; (i = atomic_fetch_sub(&pool->left, 1)) > 0;) {
    pool->task(pool->context, (size_t)(i - 1));
    atomic_fetch_add(&pool->done, 1);
  }
}

static void *work(void *argument) {
  own_pool *pool = argument;
  size_t seen = 0;
  for (;;) {
    size_t spins = 0;
    while (atomic_load_explicit(&pool->round, memory_order_acquire) == seen && spins++ < SPINS) RELAX();
    if (atomic_load(&pool->round) == seen) {
      pthread_mutex_lock(&pool->lock);
      pool->asleep++;
      while (atomic_load(&pool->round) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
      pool->asleep--;
      pthread_mutex_unlock(&pool->lock);
    }
    seen = atomic_load(&pool->round);
    if (atomic_load(&pool->stop)) return NULL;
    take(pool);
  }
}

static void begin_round(own_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  atomic_fetch_add(&pool->round, 1);
  if (pool->asleep) pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
}

static void run(void *self, size_t count, edge_task task, void *context) {
  own_pool *pool = self;
  pthread_mutex_lock(&pool->callers);
  pool->task = task;
  pool->context = context;
  atomic_store(&pool->done, 0);
  atomic_store(&pool->left, (long)count);
  begin_round(pool);
  take(pool);
  for (size_t spins = 0; atomic_load(&pool->done) < (long)count; spins++) {
    RELAX();
    if (spins > SPINS) sched_yield();
  }
  pthread_mutex_unlock(&pool->callers);
}

edge_pool *edge_pool_create(size_t threads) {
  if (threads < 1) threads = 1;
  own_pool *pool = calloc(1, sizeof *pool + (threads - 1) * sizeof *pool->threads);
  if (!pool) return NULL;
  pool->face = (edge_pool){run, pool, threads};
  pthread_mutex_init(&pool->lock, NULL);
  pthread_mutex_init(&pool->callers, NULL);
  pthread_cond_init(&pool->wake, NULL);
  while (pool->started < threads - 1) {
    if (pthread_create(&pool->threads[pool->started], NULL, work, pool)) break;
    pool->started++;
  }
  pool->face.threads = pool->started + 1;
  return &pool->face;
}

void edge_pool_destroy(edge_pool *face) {
  if (!face) return;
  own_pool *pool = face->self;
  atomic_store(&pool->stop, 1);
  begin_round(pool);
  for (size_t i = 0; i < pool->started; i++) pthread_join(pool->threads[i], NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->callers);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

typedef struct memory {
  void *start[SCRATCH_USERS];
  size_t bytes[SCRATCH_USERS];
} memory;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void release(void *argument) {
  memory *mine = argument;
  for (size_t user = 0; user < SCRATCH_USERS; user++) free(mine->start[user]);
  free(mine);
}
static void make_key(void) { pthread_key_create(&key, release); }

void *edge_scratch(enum scratch_user user, size_t bytes) {
  pthread_once(&once, make_key);
  memory *mine = pthread_getspecific(key);
  if (!mine) {
    mine = calloc(1, sizeof *mine);
    if (!mine || pthread_setspecific(key, mine)) {
      free(mine);
      return NULL;
    }
  }
  if (mine->bytes[user] < bytes) {
    free(mine->start[user]);
    mine->bytes[user] = up_to(bytes + bytes / 4, 64);
    mine->start[user] = aligned_alloc(64, mine->bytes[user]);
    if (!mine->start[user]) mine->bytes[user] = 0;
  }
  return mine->start[user];
}
