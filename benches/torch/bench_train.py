"""One configuration per process -> one JSON line (stdout, last line).
python bench_train.py --model k2-tiny --B 4 --T 256 --dtype f32|bf16 --mode eager|compile --threads 2 --experts eager|grouped_mm|batched_mm --attn sdpa|eager|smax --opt muonclip|muonclip_stacked|adamw|none --ns bf16|f32 (Newton-Schulz of Muon) --what train|fwd|decode"""
import argparse, json, os, sys, time, resource
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/golden/generate"))  # common, optim_oracle
P = argparse.ArgumentParser()
for a, d in dict(model="k2-tiny", B=4, T=256, dtype="f32", mode="eager", threads=2, experts="grouped_mm", attn="sdpa", opt="adamw", ns="bf16", what="train", need=5, max_time=120, gen=64, split=0).items():
    P.add_argument("--" + a, type=type(d), default=d)
A = P.parse_args()
os.environ["OMP_NUM_THREADS"] = str(A.threads)
import torch
torch.set_num_threads(A.threads)
import warnings; warnings.filterwarnings("ignore")
import common as c, quiet
import optim_oracle as O
if A.ns == "f32": O.M._zeropower_via_newtonschulz = O._ns_f32
NS_TYPE = {"bf16": torch.bfloat16, "f32": torch.float32}[A.ns]
base_rss = quiet.rss_mb()
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
SMAX = {}
def smax_attn(module, q, k, v, mask, scaling, dropout=0.0, **kw):     # eager attention that also yields per-head causal max
    s = torch.matmul(q, k.transpose(2, 3)) * scaling
    if mask is not None: s = s + mask
    SMAX[module.layer_idx] = s.detach().amax(dim=(0, 2, 3))
    p = torch.nn.functional.softmax(s, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(p, v).transpose(1, 2).contiguous(), p
ALL_ATTENTION_FUNCTIONS.register("smax", smax_attn); ALL_MASK_ATTENTION_FUNCTIONS.register("smax", eager_mask)

m, cfg = c.make_model(A.model, attn=A.attn, experts=A.experts)
ids = c.markov_batches(cfg.vocab_size, 1, A.B, A.T, 3)[0]; L = cfg.num_hidden_layers
ac = lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled=A.dtype == "bf16")
res = dict(vars(A), params=sum(p.numel() for p in m.parameters()), base_rss_mb=round(base_rss))

class Stacked:
    """Same maths as Grouped but Newton-Schulz batched over equal-shaped matrices (KellerJordan/Muon's batched form), in NS_TYPE."""
    def __init__(self, m):
        self.m, H = m, O.HP; self.g = []
        self.adam = torch.optim.AdamW([p for n, p in m.named_parameters() if p.ndim == 1 or "embed_tokens" in n or "lm_head" in n], lr=2e-3, betas=(0.9, .95), weight_decay=0.1)
        groups = {}
        for n, p in m.named_parameters():
            if p.ndim == 1 or "embed_tokens" in n or "lm_head" in n: continue
            if n.endswith("gate_up_proj"): I = p.shape[1] // 2; ent = [(p, lambda t, I=I: t[:, :I]), (p, lambda t, I=I: t[:, I:])]
            elif p.ndim == 3: ent = [(p, lambda t: t)]
            else: ent = [(p, lambda t: t[None])]
            for e in ent: groups.setdefault(tuple(e[1](p).shape[1:]), []).append(e)
        self.groups = groups; self.buf = {}
    @torch.no_grad()
    def step(self):
        H = O.HP; self.adam.step(); a, b, cc = H["ns_coefficients"]
        for shp, es in self.groups.items():
            G = torch.cat([f(p.grad) for p, f in es]); B = self.buf.setdefault(shp, torch.zeros_like(G)); B.lerp_(G, 1 - H["momentum"])
            X = G.lerp_(B, H["momentum"]).to(NS_TYPE); tr = shp[0] > shp[1]
            if tr: X = X.mT
            X = X / X.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
            for _ in range(5):
                S = X @ X.mT; X = torch.baddbmm(X, torch.baddbmm(S, S, S, beta=b, alpha=cc), X, beta=a)
            if tr: X = X.mT
            i = 0; lr = H["lr"] * 0.2 * max(shp) ** 0.5
            for p, f in es:
                w = f(p.data); k = w.shape[0]; w.mul_(1 - H["lr"] * H["weight_decay"]).add_(X[i:i + k].to(w.dtype), alpha=-lr); i += k

if A.what in ("train", "fwd"):
    def loss_fn(x): return m(input_ids=x, labels=x, use_cache=False).loss
    f = torch.compile(loss_fn) if A.mode == "compile" else torch.compile(loss_fn, mode="max-autotune-no-cudagraphs") if A.mode == "maxauto" else loss_fn
    def fwd():
        with ac(): return f(ids)
    if A.what == "fwd":
        def step():
            with torch.no_grad(): fwd()
    else:
        opt = {"adamw": lambda: torch.optim.AdamW(m.parameters(), lr=1e-4, weight_decay=0.1), "muonclip": lambda: O.Grouped(m), "muonclip_stacked": lambda: Stacked(m), "none": lambda: None}[A.opt]()
        T = dict(fb=0.0, opt=0.0)
        def step():
            m.zero_grad(set_to_none=True); t0 = time.perf_counter(); fwd().backward(); t1 = time.perf_counter()
            if opt is not None: opt.step()
            if A.opt.startswith("muonclip"): O.qk_clip(m, cfg, torch.stack([SMAX[i] for i in range(L)]).float(), 1e9)
            T["fb"] += t1 - t0; T["opt"] += time.perf_counter() - t1
    t0 = time.perf_counter(); step(); res["first_call_s"] = time.perf_counter() - t0
    t0 = time.perf_counter(); step(); res["second_call_s"] = time.perf_counter() - t0
    if A.what == "train": T.update(fb=0.0, opt=0.0)
    r = quiet.measure(step, warm=1, need=A.need, max_time=A.max_time); res.update(r)
    if A.what == "train": res["share_opt"] = T["opt"] / (T["opt"] + T["fb"])
    res["tokens_per_s"] = A.B * A.T / r["median_s"]
else:   # decode with KV cache: prefill T, then gen tokens greedily; time of the gen loop only
    from transformers import DynamicCache, StaticCache
    if A.dtype == "bf16": m = m.to(torch.bfloat16)
    fn = m.forward
    if A.mode == "compile": fn = torch.compile(m.forward, dynamic=None)
    static = A.mode == "compile"
    def prefill():
        cache = StaticCache(config=cfg, max_cache_len=A.T + A.gen) if static else DynamicCache(config=cfg)
        with torch.no_grad(): o = m(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, o.logits[:, -1].argmax(-1, keepdim=True)
    def gen(cache, tok, n, pos):
        with torch.no_grad():
            for i in range(n):
                kw = dict(position_ids=torch.full((1, 1), pos + i)) if static else {}
                tok = fn(input_ids=tok, past_key_values=cache, use_cache=True, logits_to_keep=1, **kw).logits[:, -1].argmax(-1, keepdim=True)
    t0 = time.perf_counter(); ca, tk = prefill(); gen(ca, tk, 3, A.T); res["first_call_s"] = time.perf_counter() - t0
    state = []
    xs = []; t_start = time.perf_counter()
    while True:
        ca, tk = prefill(); w, other, util, st_ = quiet.sample(lambda: gen(ca, tk, A.gen, A.T)); xs.append((w, other, util))
        q = [x for x in xs[1:] if x[1] < quiet.LIMIT]
        if len(q) >= A.need or (time.perf_counter() - t_start > A.max_time and len(xs) > A.need): break
    use = q if len(q) >= A.need else sorted(xs[1:], key=lambda x: x[1])[:A.need]
    v = sorted(x[0] for x in use); med = v[len(v) // 2]
    res.update(median_s=med, min_s=v[0], max_s=v[-1], samples=len(v), total_samples=len(xs), quiet=len(q) >= A.need, other_cores=max(x[1] for x in use), own_cores=round(use[0][2], 2), tokens_per_s=A.B * A.gen / med, ms_per_step=med / A.gen * 1e3)
res["peak_rss_mb"] = round(quiet.rss_mb()); res["peak_rss_children_mb"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
print(json.dumps(res))
