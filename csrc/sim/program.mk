# Stand-alone programs around CUDA kernels, run by the simulator (tests/sim/program.h):
#   make -f csrc/sim/program.mk BUILD=directory SOURCES="tests/sim/*.cu" [CXX=aarch64-linux-gnu-g++] [OPTIONS=-g]
# makes $(BUILD)/program, from the top of the repository. The target `kernels` compiles the kernels of all families.
ALL := $(wildcard $(SOURCES) csrc/sim/*.cpp) csrc/cpu/parallel.cpp
OBJECTS := $(ALL:%=$(BUILD)/%.o)
FLAGS := -std=c++20 -O2 -ffp-contract=off -fno-math-errno -Wall -Wextra -Wno-unknown-pragmas -Wno-psabi -Icsrc -I. -MMD -pthread

KERNELS := $(shell find csrc/cuda -name '*.cu')

.PHONY: all kernels
all: $(BUILD)/program
kernels: $(KERNELS:%=$(BUILD)/%.o)

$(BUILD)/program: $(OBJECTS)
	$(CXX) $^ -o $@ -pthread $(OPTIONS)

$(BUILD)/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(OPTIONS) -x c++ -c $< -o $@

$(BUILD)/%.cpp.o: %.cpp
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(OPTIONS) -c $< -o $@

-include $(OBJECTS:.o=.d) $(KERNELS:%=$(BUILD)/%.d)
