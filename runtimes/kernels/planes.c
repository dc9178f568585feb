/* Matrices in planes: from the plain form and back, and tiles put together again. See format.h. */
#include "format.h"

static size_t groups_of(size_t columns) { return up_to(columns, GROUP) / GROUP; }

size_t edge_coarse_bytes(size_t rows, size_t columns) {
  return rows && columns ? up_to(rows, TILE) / TILE * coarse_tile_bytes(groups_of(columns)) : 0;
}

size_t edge_fine_bytes(size_t rows, size_t columns) { return rows && columns ? rows * fine_row_bytes(groups_of(columns)) : 0; }

static uint8_t *coarse_block(size_t groups, uint8_t *coarse, size_t row, size_t group) {
  return coarse + row / TILE * coarse_tile_bytes(groups) + group * PLANE_BLOCK;
}
static uint8_t *fine_block(size_t groups, uint8_t *fine, size_t row, size_t group) {
  return fine + row * fine_row_bytes(groups) + group / TILE * PLANE_BLOCK;
}
/* Where a block has the value of a lane at `column` of its 32, and the shift in that byte. */
static uint8_t *value_byte(uint8_t *block, size_t lane, size_t column, int *shift) {
  const size_t quad = column / 4;
  *shift = (int)(quad / 2) * 2;
  return block + quad % 2 * 64 + 4 * lane + column % 4;
}
static uint8_t *scale_place(uint8_t *block, size_t lane) { return block + 128 + 2 * lane; }
static uint8_t *reach_place(size_t groups, uint8_t *coarse, size_t row) {
  return coarse_block(groups, coarse, row, groups) + row % TILE * sizeof(float);
}

int edge_pack_planes(size_t rows, size_t columns, const int8_t *q, const uint16_t *scales, const float *reach, void *coarse,
                     void *fine) {
  if (!rows || !columns) return EDGE_BAD_ARGUMENT;
  const size_t groups = groups_of(columns);
  memset(coarse, 0, edge_coarse_bytes(rows, columns));
  memset(fine, 0, edge_fine_bytes(rows, columns));
  for (size_t row = 0; row < rows; row++) {
    memcpy(reach_place(groups, coarse, row), reach + row, sizeof *reach);
    for (size_t group = 0; group < groups; group++) {
      uint8_t *high = coarse_block(groups, coarse, row, group), *low = fine_block(groups, fine, row, group);
      memcpy(scale_place(high, row % TILE), &scales[row * groups + group], 2);
      memcpy(scale_place(low, group % TILE), &scales[row * groups + group], 2);
      for (size_t i = 0; i < GROUP; i++) {
        const size_t column = group * GROUP + i;
        const int value = (column < columns ? q[row * columns + column] : 0) + 8;
        int shift;
        uint8_t *byte = value_byte(high, row % TILE, i, &shift);
        *byte |= (uint8_t)((value >> 2 & 3) << shift);
        byte = value_byte(low, group % TILE, i, &shift);
        *byte |= (uint8_t)((value & 3) << shift);
      }
    }
  }
  return 0;
}

int edge_unpack_planes(size_t rows, size_t columns, const void *coarse, const void *fine, int8_t *q, uint16_t *scales,
                       float *reach) {
  if (!rows || !columns) return EDGE_BAD_ARGUMENT;
  const size_t groups = groups_of(columns);
  for (size_t row = 0; row < rows; row++) {
    memcpy(reach + row, reach_place(groups, (uint8_t *)coarse, row), sizeof *reach);
    for (size_t column = 0; column < columns; column++) {
      const size_t group = column / GROUP;
      int shift;
      const uint8_t *high = value_byte(coarse_block(groups, (uint8_t *)coarse, row, group), row % TILE, column % GROUP, &shift);
      const uint8_t *low = value_byte(fine_block(groups, (uint8_t *)fine, row, group), group % TILE, column % GROUP, &shift);
      q[row * columns + column] = (int8_t)((*high >> shift & 3) * 4 + (*low >> shift & 3) - 8);
    }
    for (size_t group = 0; group < groups; group++)
      memcpy(&scales[row * groups + group], scale_place(coarse_block(groups, (uint8_t *)coarse, row, group), row % TILE), 2);
  }
  return 0;
}

/* Four bytes at a time: those of a lane. The tiled form has quads v and v + 4 in one byte, a plane v, v + 2, v + 4 and v + 6. */
void edge_merge_tile(size_t groups, size_t valid, const uint8_t *coarse, const uint8_t *fine, uint8_t *tile) {
  const uint32_t odd = 0x33333333u;
  const size_t stride = fine_row_bytes(groups);
  uint32_t high[TILE], low[TILE] = {0}, first[TILE], second[TILE];
  for (size_t group = 0; group < groups; group++, coarse += PLANE_BLOCK, tile += tile_group_bytes(4)) {
    const uint8_t *from = fine + group / TILE * PLANE_BLOCK + group % TILE * 4;
    for (size_t v = 0; v < 2; v++) {
      memcpy(high, coarse + 64 * v, sizeof high);
      for (size_t row = 0; row < valid; row++) memcpy(low + row, from + row * stride + 64 * v, 4);
      for (size_t lane = 0; lane < TILE; lane++) {
        first[lane] = (high[lane] & odd) << 2 | (low[lane] & odd);
        second[lane] = (high[lane] & odd << 2) | (low[lane] >> 2 & odd);
      }
      memcpy(tile + 64 * v, first, sizeof first);
      memcpy(tile + 64 * v + 128, second, sizeof second);
    }
    memcpy(tile + 256, coarse + 128, 2 * TILE);
  }
}
