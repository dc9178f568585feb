/* The MLP of squared ReLUs: what is zero after them is not read. */
#include "format.h"

/* From so many tokens on, a weight is expanded to float once for all of them. */
#define MANY_TOKENS 4
/* Tokens whose lists of live neurons are at hand at one time, and neurons whose expanded strips are (32 KB). */
#define MOST_TOKENS 64
#define NEURONS 64
/* Most strips of a task, whose sums stay in a core's second cache (32 KB each). */
#define STRIPS 8

typedef struct down_job {
  const instruction_set *isa;
  int bits;
  size_t width, hidden, tokens, parts;
  const uint8_t *packed;
  const live_neuron *live; /* [tokens][hidden] */
  const size_t *count;     /* [tokens] */
  const uint32_t *starts;  /* [tokens][blocks of NEURONS + 1]: where each block's neurons begin in `live` */
  float *partial;          /* [parts][padded width], then each part's coefficients */
  float *y;
} down_job;

/* The live ones of neurons first..last, in order; not-a-number is live. */
static size_t find_live(size_t first, size_t last, const float *activations, live_neuron *live) {
  size_t count = 0;
  for (size_t i = first; i < last; i++) {
    live[count] = (live_neuron){(uint32_t)i, activations[i]};
    count += activations[i] != 0.0f;
  }
  return count;
}

static size_t coefficients_of(size_t width) { return up_to(4 * (up_to(width, STRIP) / GROUP), 16); }

static void down_part(void *context, size_t part) {
  const down_job *job = context;
  const size_t padded = up_to(job->width, STRIP), each = padded + coefficients_of(job->width);
  const size_t first = *job->count * part / job->parts, last = *job->count * (part + 1) / job->parts;
  float *y = job->partial + part * each;
  memset(y, 0, padded * sizeof(float));
  (job->bits == 4 ? job->isa->down4 : job->isa->down8)(job->width, job->packed, last - first, job->live + first, y + padded, y);
}

/* One token: every thread takes a share of the live neurons, whole rows of weights, and the shares are added up. */
static void down_one(const edge_pool *pool, down_job *job) {
  job->parts = edge_threads(pool);
  edge_parallel(pool, job->parts, down_part, job);
  const size_t each = up_to(job->width, STRIP) + coefficients_of(job->width);
  memcpy(job->y, job->partial, job->width * sizeof(float));
  for (size_t part = 1; part < job->parts; part++)
    for (size_t i = 0; i < job->width; i++) job->y[i] += job->partial[part * each + i];
}

/* Many tokens: some strips of outputs a task, for which the weights of some neurons are expanded at a time. A neuron's strips lie side
 * by side, so that memory is read in runs of lines and not a line here and there. */
static void down_strips(void *context, size_t part) {
  const down_job *job = context;
  const size_t strips = up_to(job->width, STRIP) / STRIP, begin = strips * part / job->parts, end = strips * (part + 1) / job->parts;
  float *memory = edge_scratch(SCRATCH_TASK, (NEURONS + (end - begin) * MOST_TOKENS) * STRIP * sizeof(float));
  if (!memory) return;
  float *w = memory, *sums = memory + NEURONS * STRIP;
  const size_t blocks = up_to(job->hidden, NEURONS) / NEURONS + 1;
  memset(sums, 0, (end - begin) * job->tokens * STRIP * sizeof(float));
  for (size_t first = 0; first < job->hidden; first += NEURONS) {
    const size_t n = job->hidden - first < NEURONS ? job->hidden - first : NEURONS;
    float *y = sums;
    for (size_t strip = begin; strip < end; strip++) {
      (job->bits == 4 ? job->isa->expand4 : job->isa->expand8)(job->width, job->packed, first, n, strip, w);
      for (size_t token = 0; token < job->tokens; token++, y += STRIP) {
        const live_neuron *live = job->live + token * job->hidden;
        const uint32_t *starts = job->starts + token * blocks + first / NEURONS;
        if (starts[1] > starts[0]) job->isa->gather(first, starts[1] - starts[0], live + starts[0], w, y);
      }
    }
  }
  for (size_t strip = begin; strip < end; strip++) {
    const size_t start = strip * STRIP, valid = job->width - start < STRIP ? job->width - start : STRIP;
    for (size_t token = 0; token < job->tokens; token++, sums += STRIP)
      memcpy(job->y + token * job->width + start, sums, valid * sizeof(float));
  }
}

typedef struct activate_job {
  size_t hidden;
  const float *activations;
  live_neuron *live;
  size_t *count;
  uint32_t *starts;
} activate_job;

static void activate_token(void *context, size_t token) {
  const activate_job *job = context;
  const size_t blocks = up_to(job->hidden, NEURONS) / NEURONS;
  const float *activations = job->activations + token * job->hidden;
  live_neuron *live = job->live + token * job->hidden;
  uint32_t *starts = job->starts + token * (blocks + 1);
  size_t count = 0;
  for (size_t block = 0; block < blocks; block++) {
    const size_t first = block * NEURONS, last = first + NEURONS < job->hidden ? first + NEURONS : job->hidden;
    starts[block] = (uint32_t)count;
    count += find_live(first, last, activations, live + count);
  }
  starts[blocks] = (uint32_t)count;
  job->count[token] = count;
}

int edge_sparse_down(const edge_pool *pool, int bits, size_t width, size_t hidden, const void *down, size_t tokens,
                     const float *activations, float *y, uint64_t *live) {
  if ((bits != 4 && bits != 8) || !width || !hidden || hidden > UINT32_MAX) return EDGE_BAD_ARGUMENT;
  if (live) *live = 0;
  const size_t most = tokens < MOST_TOKENS ? tokens : MOST_TOKENS, padded = up_to(width, STRIP);
  const size_t lists = up_to((most * hidden + 1) * sizeof(live_neuron), 64), counts = up_to(most * sizeof(size_t), 64);
  const size_t starts = up_to(most * (up_to(hidden, NEURONS) / NEURONS + 1) * sizeof(uint32_t), 64);
  const size_t partial = edge_threads(pool) * (padded + coefficients_of(width)) * sizeof(float);
  uint8_t *memory = edge_scratch(SCRATCH_MLP, lists + counts + starts + partial);
  if (!memory) return EDGE_NO_MEMORY;
  for (size_t done = 0; done < tokens; done += most) {
    const size_t n = tokens - done < most ? tokens - done : most;
    activate_job found = {hidden, activations + done * hidden, (live_neuron *)memory, (size_t *)(memory + lists),
                          (uint32_t *)(memory + lists + counts)};
    edge_parallel(n > 1 ? pool : NULL, n, activate_token, &found);
    for (size_t token = 0; live && token < n; token++) *live += found.count[token];
    down_job job = {edge_isa(), bits, width, hidden, n, 1, down, found.live, found.count, found.starts,
                    (float *)(memory + lists + counts + starts), y + done * width};
    if (n >= MANY_TOKENS) {
      const size_t strips = padded / STRIP, least = up_to(strips, STRIPS) / STRIPS;
      job.parts = edge_threads(pool) > least ? edge_threads(pool) : least;
      if (job.parts > strips) job.parts = strips;
      edge_parallel(pool, job.parts, down_strips, &job);
      continue;
    }
    for (size_t token = 0; token < n; token++) {
      down_one(pool, &job);
      job.live += hidden;
      job.count++;
      job.y += width;
    }
  }
  return 0;
}

int edge_down_live(const edge_pool *pool, int bits, size_t width, const uint8_t *down, const live_neuron *live, size_t count, float *y) {
  float *partial = edge_scratch(SCRATCH_MLP, edge_threads(pool) * (up_to(width, STRIP) + coefficients_of(width)) * sizeof(float));
  if (!partial) return EDGE_NO_MEMORY;
  down_job job = {edge_isa(), bits, width, 0, 1, 1, down, live, &count, NULL, partial, y};
  down_one(pool, &job);
  return 0;
}

/* One token: whoever has computed some neurons squares them, and lists the live ones, before the next begin. */
typedef struct one_job {
  const float *middle;
  live_neuron *live; /* those of a task from its first neuron on */
  size_t *first, *count; /* [tasks] */
} one_job;

static void square_some(void *context, size_t task, size_t first, size_t last) {
  const one_job *job = context;
  live_neuron *live = job->live + first;
  size_t count = 0;
  for (size_t i = first; i < last; i++) {
    const float squared = relu2(job->middle[i]);
    live[count] = (live_neuron){(uint32_t)i, squared};
    count += squared != 0.0f;
  }
  job->first[task] = first;
  job->count[task] = count;
}

static int mlp_of_one(const edge_pool *pool, int bits, size_t width, size_t hidden, const void *up, const void *down, const float *x,
                      float *y, uint64_t *live) {
  const size_t threads = edge_threads(pool), tasks = threads * PRODUCT_TASKS, middle = up_to(hidden * sizeof(float), 64);
  const size_t list = up_to((hidden + 1) * sizeof(live_neuron), 64), counts = up_to(2 * tasks * sizeof(size_t), 64);
  const size_t partial = threads * (up_to(width, STRIP) + coefficients_of(width)) * sizeof(float);
  uint8_t *memory = edge_scratch(SCRATCH_MLP, middle + list + counts + partial);
  if (!memory) return EDGE_NO_MEMORY;
  size_t *firsts = (size_t *)(memory + middle + list), found = 0;
  one_job job = {(float *)memory, (live_neuron *)(memory + middle), firsts, firsts + tasks};
  memset(firsts, 0, counts);
  const int status = edge_matmul_then(pool, bits, hidden, width, up, x, (float *)memory, square_some, &job);
  if (status) return status;
  for (size_t task = 0; task < tasks; task++) {
    memmove(job.live + found, job.live + job.first[task], job.count[task] * sizeof(live_neuron));
    found += job.count[task];
  }
  *live += found;
  down_job next = {edge_isa(), bits, width, hidden, 1, 1, down, job.live, &found, NULL, (float *)(memory + middle + list + counts), y};
  down_one(pool, &next);
  return 0;
}

typedef struct square_job {
  size_t hidden;
  float *x;
} square_job;

static void square(void *context, size_t token) {
  const square_job *job = context;
  float *x = job->x + token * job->hidden;
  for (size_t i = 0; i < job->hidden; i++) x[i] = relu2(x[i]);
}

void edge_relu2(const edge_pool *pool, size_t tokens, size_t hidden, float *x) {
  square_job job = {hidden, x};
  edge_parallel(tokens > 1 ? pool : NULL, tokens, square, &job);
}

int edge_relu2_mlp(const edge_pool *pool, int bits, size_t width, size_t hidden, const void *up, const void *down, size_t tokens,
                   const float *x, float *y, uint64_t *live) {
  if (!width || !hidden || hidden > UINT32_MAX) return EDGE_BAD_ARGUMENT;
  uint64_t some = 0;
  if (!live) live = &some;
  *live = 0;
  if (tokens == 1) return mlp_of_one(pool, bits, width, hidden, up, down, x, y, live);
  const size_t most = tokens < MOST_TOKENS ? tokens : MOST_TOKENS;
  float *middle = edge_scratch(SCRATCH_LAYER, most * hidden * sizeof(float));
  if (!middle && tokens) return EDGE_NO_MEMORY;
  for (size_t done = 0; done < tokens; done += most) {
    const size_t n = tokens - done < most ? tokens - done : most;
    uint64_t here = 0;
    int status = edge_matmul(pool, bits, hidden, width, up, n, x + done * width, middle);
    if (status) return status;
    edge_relu2(pool, n, hidden, middle);
    status = edge_sparse_down(pool, bits, width, hidden, down, n, middle, y + done * width, &here);
    if (status) return status;
    *live += here;
  }
  return 0;
}
