// One bug for each of compute-sanitizer's tools: canary memcheck|racecheck|initcheck|synccheck
#include <cstdio>
#include <cstring>

__global__ void writes_behind_the_end(float* values) { values[threadIdx.x + 1] = 1.0f; }

__global__ void races(float* values) {
  __shared__ float tile[64];
  tile[threadIdx.x] = threadIdx.x;
  values[threadIdx.x] = tile[(threadIdx.x + 33) % 64];
}

__global__ void reads_what_nobody_wrote(float* values) { values[threadIdx.x] = values[64 + threadIdx.x] + 1.0f; }

__global__ void waits_in_a_branch(float* values) {
  if (threadIdx.x % 2 == 0) __syncthreads();
  values[threadIdx.x] = 1.0f;
}

int main(int count, char** words) {
  const char* tool = count > 1 ? words[1] : "";
  float* values = nullptr;
  cudaMalloc(&values, (std::strcmp(tool, "memcheck") == 0 ? 64 : 128) * sizeof(float));
  if (std::strcmp(tool, "memcheck") == 0) writes_behind_the_end<<<1, 64>>>(values);
  else if (std::strcmp(tool, "racecheck") == 0) races<<<1, 64>>>(values);
  else if (std::strcmp(tool, "initcheck") == 0) reads_what_nobody_wrote<<<1, 64>>>(values);
  else if (std::strcmp(tool, "synccheck") == 0) waits_in_a_branch<<<1, 64>>>(values);
  else return 2;
  std::printf("%s\n", cudaGetErrorString(cudaDeviceSynchronize()));
  return 0;
}
