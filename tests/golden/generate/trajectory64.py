"""The MuonClip trajectory in float64, against a recorded float32 one.
python trajectory64.py DIR VARIANT  -> one line a step: how far the recorded loss and per-head maxima are from the exact ones,
and whether every expert received the recorded number of tokens.

Arithmetic after ref64.py and optim_oracle.py, nothing shared with torch.optim. It tells how long a float32 trajectory can be
followed: k2-tiny's leaves the exact one at step 24 (f32ns), by a router tie, with maxima up to 4e-4 off before that."""
import json, math, os, sys, torch
from safetensors.torch import load_file
import ref64
from ref64 import D

def newton_schulz(g, coefficients, steps, eps):
    a, b, c = coefficients; tall = g.size(0) > g.size(1); x = g.T if tall else g
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        A = x @ x.T; x = a * x + (b * A + c * (A @ A)) @ x
    return x.T if tall else x

class Optimizer:
    def __init__(self, meta):
        self.hp, self.adam = meta["hp"], meta["adamw"]; self.muon = set(meta["muon_names"]); self.no_decay = set(meta["adamw_nodecay_names"])
        self.m, self.v = {}, {}
    def update(self, name, p, step):
        g = p.grad if p.grad is not None else torch.zeros_like(p); m = self.m.setdefault(name, torch.zeros_like(p))
        if name in self.muon:
            hp = self.hp; m.lerp_(g, 1 - hp["momentum"]); u = g.lerp(m, hp["momentum"]) if hp["nesterov"] else m
            o = newton_schulz(u, hp["ns_coefficients"], hp["ns_steps"], hp["eps"])
            p.mul_(1 - hp["lr"] * hp["weight_decay"]).sub_(o * (hp["lr"] * 0.2 * math.sqrt(max(p.shape))))
        else:
            ad = self.adam; (b1, b2), v = ad["betas"], self.v.setdefault(name, torch.zeros_like(p))
            p.mul_(1 - ad["lr"] * (0.0 if name in self.no_decay else ad["weight_decay"]))
            m.lerp_(g, 1 - b1); v.mul_(b2).addcmul_(g, g, value=1 - b2)
            p.sub_(ad["lr"] / (1 - b1 ** step) * m / ((v / (1 - b2 ** step)).sqrt() + ad["eps"]))

def qk_clip(W, cf, smax, tau):
    H, N, R, V = cf["num_attention_heads"], cf["qk_nope_head_dim"], cf["qk_rope_head_dim"], cf["v_head_dim"]
    gamma = torch.where(smax > tau, tau / smax, torch.ones_like(smax))
    for l in range(cf["num_hidden_layers"]):
        a = f"model.layers.{l}.self_attn."; q = W[a + ("q_b_proj.weight" if cf["q_lora_rank"] else "q_proj.weight")]
        q, kv, g = q.view(H, N + R, -1), W[a + "kv_b_proj.weight"].view(H, N + V, -1), gamma[l].view(H, 1, 1)
        q[:, :N] *= g.sqrt(); q[:, N:] *= g; kv[:, :N] *= g.sqrt()

if __name__ == "__main__":
    folder, variant = sys.argv[1:]; read = lambda f: json.load(open(os.path.join(folder, f)))
    cf, meta, trace = read("config.json"), read("optim/meta.json"), read(f"optim/{variant}/trace.json")
    W = {k: v.to(D).requires_grad_(not k.endswith("bias")) for k, v in load_file(folder + "/model.safetensors").items()}
    batches = load_file(folder + "/optim/batches.safetensors")["input_ids"]; opt = Optimizer(meta)
    for s, ids in enumerate(batches):
        logits, smax, route = ref64.forward(W, cf, ids)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1)); loss.backward()
        counts = trace["expert_counts"][s]; same = all(r.flatten(0, -2).sum(0).tolist() == counts[str(l)] for l, r in route.items())
        print(f"step {s + 1:2}: loss off by {abs(loss.item() - trace['loss'][s]):.1e}, maxima by {(smax - torch.tensor(trace['smax'][s], dtype=D)).abs().max():.1e}, "
              f"routing {'equal' if same else 'DIFFERS'}", flush=True)
        with torch.no_grad():
            for n, p in W.items():
                if p.requires_grad: opt.update(n, p, s + 1); p.grad = None
            if "noclip" not in variant: qk_clip(W, cf, smax, meta["tau"])
