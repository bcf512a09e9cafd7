// The algorithms of part 0: see update.h. No torch.
#include "cpu/update.h"

namespace sgdr_fused::cpu {

template void update_part<0>(int, const Step&, const Threads&);

}  // namespace sgdr_fused::cpu
