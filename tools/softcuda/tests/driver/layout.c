/* Prints the sizes and offsets of cuda.h's structures: name, size, then the offset of every field. */
#include <cuda.h>
#include <stddef.h>
#include <stdio.h>
#define S(type) printf("%s%s %zu", first++ ? "\n" : "", #type, sizeof(type))
#define O(type, field) printf(" %zu", offsetof(type, field))
int main(void) {
    int first = 0;
    S(CUDA_MEMCPY2D);
    O(CUDA_MEMCPY2D, srcMemoryType), O(CUDA_MEMCPY2D, srcHost), O(CUDA_MEMCPY2D, dstMemoryType);
    O(CUDA_MEMCPY2D, dstDevice), O(CUDA_MEMCPY2D, dstPitch), O(CUDA_MEMCPY2D, Height);
    S(CUDA_MEMCPY3D);
    O(CUDA_MEMCPY3D, srcMemoryType), O(CUDA_MEMCPY3D, srcHost), O(CUDA_MEMCPY3D, dstMemoryType);
    O(CUDA_MEMCPY3D, dstDevice), O(CUDA_MEMCPY3D, dstPitch), O(CUDA_MEMCPY3D, Depth);
    S(CUDA_MEMCPY3D_PEER);
    O(CUDA_MEMCPY3D_PEER, srcMemoryType), O(CUDA_MEMCPY3D_PEER, srcHost), O(CUDA_MEMCPY3D_PEER, dstMemoryType);
    O(CUDA_MEMCPY3D_PEER, dstDevice), O(CUDA_MEMCPY3D_PEER, dstPitch), O(CUDA_MEMCPY3D_PEER, Depth);
    S(CUDA_KERNEL_NODE_PARAMS);
    O(CUDA_KERNEL_NODE_PARAMS, gridDimX), O(CUDA_KERNEL_NODE_PARAMS, blockDimX);
    O(CUDA_KERNEL_NODE_PARAMS, sharedMemBytes), O(CUDA_KERNEL_NODE_PARAMS, kernelParams);
    O(CUDA_KERNEL_NODE_PARAMS, extra), O(CUDA_KERNEL_NODE_PARAMS, kern), O(CUDA_KERNEL_NODE_PARAMS, ctx);
    S(CUDA_MEMSET_NODE_PARAMS);
    O(CUDA_MEMSET_NODE_PARAMS, value), O(CUDA_MEMSET_NODE_PARAMS, elementSize), O(CUDA_MEMSET_NODE_PARAMS, height);
    S(CUDA_HOST_NODE_PARAMS), O(CUDA_HOST_NODE_PARAMS, userData);
    S(CUlaunchConfig);
    O(CUlaunchConfig, blockDimX), O(CUlaunchConfig, sharedMemBytes), O(CUlaunchConfig, hStream);
    O(CUlaunchConfig, attrs), O(CUlaunchConfig, numAttrs);
    S(CUlaunchAttribute), O(CUlaunchAttribute, value), O(CUlaunchAttribute, value.clusterDim.y);
    S(CUmemPoolProps);
    O(CUmemPoolProps, handleTypes), O(CUmemPoolProps, location), O(CUmemPoolProps, maxSize);
    S(CUmemAccessDesc), O(CUmemAccessDesc, flags);
    S(CUgraphEdgeData), O(CUgraphEdgeData, type);
    S(CUDA_GRAPH_INSTANTIATE_PARAMS);
    O(CUDA_GRAPH_INSTANTIATE_PARAMS, hUploadStream), O(CUDA_GRAPH_INSTANTIATE_PARAMS, hErrNode_out);
    O(CUDA_GRAPH_INSTANTIATE_PARAMS, result_out);
    S(CUgraphExecUpdateResultInfo);
    O(CUgraphExecUpdateResultInfo, errorNode), O(CUgraphExecUpdateResultInfo, errorFromNode);
    S(CUctxCreateParams);
    O(CUctxCreateParams, numExecAffinityParams), O(CUctxCreateParams, cigParams);
    S(CUdevprop), O(CUdevprop, SIMDWidth), O(CUdevprop, textureAlign);
    S(CUuuid);
    return 0;
}
