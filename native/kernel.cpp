#include "solve.hpp"
using namespace eigengrad::EIGENGRAD_ISA;
#include <cstdlib>
#include <cstdint>
static thread_local struct { char*p=nullptr; long n=0;} mem;
static void* reserve(void*, long bytes){ if(mem.n<bytes){ free(mem.p); mem.p=(char*)aligned_alloc(4096,(bytes+8191)/4096*4096); mem.n=bytes;} return mem.p; }
template<class V, class T> void run(const T*A,T*L,T*Q,long batch,int n){
  constexpr int N=2*V::lanes;
  for(long b=0;b<batch;b+=N){ int c=batch-b<N?batch-b:N;
    solve<V>(Batch<const T>{A+b*n*n,(long)n*n,c},Batch<T>{L+b*n,n,c},Batch<T>{Q+b*n*n,(long)n*n,c},n,Workspace{reserve,nullptr}); }
}
extern "C" void proto_f32(const float*A,float*L,float*Q,long batch,int n,int w){
 if(w==16) run<Vec<float,16>>(A,L,Q,batch,n);
 else run<Vec<float,8>>(A,L,Q,batch,n);
}
extern "C" void proto_f64(const double*A,double*L,double*Q,long batch,int n,int w){
 if(w==8) run<Vec<double,8>>(A,L,Q,batch,n);
 else run<Vec<double,4>>(A,L,Q,batch,n);
}
