//! The forms of the instructions, one a line: `name result:operands more`. Letters of results and operands: integers of
//! 16, 32 and 64 bits `h` `r` `l`, a small count `s`, f16 `H`, bf16 `B`, two of them `x` `y`, f32 `F`, an angle `t`, f64
//! `D`, a predicate `p`.

use crate::harness::Rule;
use crate::harness::rule::Float;

/// Forms whose results are compared by one rule.
pub struct Group {
    pub name: &'static str,
    pub rule: Rule,
    pub forms: &'static str,
}

pub const INTEGER: Group = Group {
    name: "integers",
    rule: Rule::Exact,
    forms: "
        add.u16 h:hh
        sub.u16 h:hh
        mul.lo.u16 h:hh
        mul.hi.u16 h:hh
        div.u16 h:hh
        rem.u16 h:hh
        min.u16 h:hh
        max.u16 h:hh
        mad.lo.u16 h:hhh
        sad.u16 h:hhh
        shr.u16 h:hs
        mul.wide.u16 r:hh
        mad.wide.u16 r:hhr
        add.s16 h:hh
        sub.s16 h:hh
        mul.lo.s16 h:hh
        mul.hi.s16 h:hh
        div.s16 h:hh
        rem.s16 h:hh
        min.s16 h:hh
        max.s16 h:hh
        mad.lo.s16 h:hhh
        sad.s16 h:hhh
        shr.s16 h:hs
        mul.wide.s16 r:hh
        mad.wide.s16 r:hhr
        abs.s16 h:h
        neg.s16 h:h
        add.u32 r:rr
        sub.u32 r:rr
        mul.lo.u32 r:rr
        mul.hi.u32 r:rr
        div.u32 r:rr
        rem.u32 r:rr
        min.u32 r:rr
        max.u32 r:rr
        mad.lo.u32 r:rrr
        sad.u32 r:rrr
        shr.u32 r:rs
        mul.wide.u32 l:rr
        mad.wide.u32 l:rrl
        add.s32 r:rr
        sub.s32 r:rr
        mul.lo.s32 r:rr
        mul.hi.s32 r:rr
        div.s32 r:rr
        rem.s32 r:rr
        min.s32 r:rr
        max.s32 r:rr
        mad.lo.s32 r:rrr
        sad.s32 r:rrr
        shr.s32 r:rs
        mul.wide.s32 l:rr
        mad.wide.s32 l:rrl
        abs.s32 r:r
        neg.s32 r:r
        add.u64 l:ll
        sub.u64 l:ll
        mul.lo.u64 l:ll
        mul.hi.u64 l:ll
        div.u64 l:ll
        rem.u64 l:ll
        min.u64 l:ll
        max.u64 l:ll
        mad.lo.u64 l:lll
        sad.u64 l:lll
        shr.u64 l:ls
        add.s64 l:ll
        sub.s64 l:ll
        mul.lo.s64 l:ll
        mul.hi.s64 l:ll
        div.s64 l:ll
        rem.s64 l:ll
        min.s64 l:ll
        max.s64 l:ll
        mad.lo.s64 l:lll
        sad.s64 l:lll
        shr.s64 l:ls
        abs.s64 l:l
        neg.s64 l:l
        and.b16 h:hh
        or.b16 h:hh
        xor.b16 h:hh
        not.b16 h:h
        cnot.b16 h:h
        shl.b16 h:hs
        and.b32 r:rr
        or.b32 r:rr
        xor.b32 r:rr
        not.b32 r:r
        cnot.b32 r:r
        shl.b32 r:rs
        and.b64 l:ll
        or.b64 l:ll
        xor.b64 l:ll
        not.b64 l:l
        cnot.b64 l:l
        shl.b64 l:ls
        popc.b32 r:r
        clz.b32 r:r
        brev.b32 r:r
        bfi.b32 r:rrss
        popc.b64 r:l
        clz.b64 r:l
        brev.b64 l:l
        bfi.b64 l:llss
        bfe.u32 r:rss
        bfind.u32 r:r
        bfind.shiftamt.u32 r:r
        mad.hi.u32 r:rrr
        bfe.s32 r:rss
        bfind.s32 r:r
        bfind.shiftamt.s32 r:r
        mad.hi.s32 r:rrr
        bfe.u64 l:lss
        bfind.u64 r:l
        bfind.shiftamt.u64 r:l
        mad.hi.u64 l:lll
        bfe.s64 l:lss
        bfind.s64 r:l
        bfind.shiftamt.s64 r:l
        mad.hi.s64 l:lll
        add.sat.s32 r:rr
        sub.sat.s32 r:rr
        mad.hi.sat.s32 r:rrr
        mul24.lo.u32 r:rr
        mul24.hi.u32 r:rr
        mad24.lo.u32 r:rrr
        mad24.hi.u32 r:rrr
        dp4a.u32.u32 r:rrr
        dp2a.lo.u32.u32 r:rrr
        dp2a.hi.u32.u32 r:rrr
        dp4a.u32.s32 r:rrr
        dp2a.lo.u32.s32 r:rrr
        dp2a.hi.u32.s32 r:rrr
        szext.clamp.u32 r:rs
        szext.wrap.u32 r:rs
        mul24.lo.s32 r:rr
        mul24.hi.s32 r:rr
        mad24.lo.s32 r:rrr
        mad24.hi.s32 r:rrr
        dp4a.s32.u32 r:rrr
        dp2a.lo.s32.u32 r:rrr
        dp2a.hi.s32.u32 r:rrr
        dp4a.s32.s32 r:rrr
        dp2a.lo.s32.s32 r:rrr
        dp2a.hi.s32.s32 r:rrr
        szext.clamp.s32 r:rs
        szext.wrap.s32 r:rs
        bmsk.clamp.b32 r:ss
        shf.l.clamp.b32 r:rrs
        shf.r.clamp.b32 r:rrs
        bmsk.wrap.b32 r:ss
        shf.l.wrap.b32 r:rrs
        shf.r.wrap.b32 r:rrs
        prmt.b32 r:rrr
        prmt.b32.f4e r:rrs
        prmt.b32.b4e r:rrs
        prmt.b32.rc8 r:rrs
        prmt.b32.ecl r:rrs
        prmt.b32.ecr r:rrs
        prmt.b32.rc16 r:rrs
        lop3.b32 r:rrr , 0x80
        lop3.b32 r:rrr , 0xe8
        lop3.b32 r:rrr , 0x96
        lop3.b32 r:rrr , 0xca
        lop3.b32 r:rrr , 0x1b
        add.u16x2 r:rr
        add.s16x2 r:rr
        min.u16x2 r:rr
        max.u16x2 r:rr
        min.s16x2 r:rr
        max.s16x2 r:rr
        min.relu.s32 r:rr
        max.relu.s32 r:rr
        min.relu.s16x2 r:rr
        max.relu.s16x2 r:rr
        fns.b32 r:rss
        cvt.pack.sat.u16.s32 r:rr
        cvt.pack.sat.s16.s32 r:rr
        cvt.pack.sat.u8.s32.b32 r:rrr
        cvt.pack.sat.s8.s32.b32 r:rrr
    ",
};

pub const COMPARE: Group = Group {
    name: "comparisons",
    rule: Rule::Exact,
    forms: "
        setp.eq.u16 p:hh
        setp.ne.u16 p:hh
        setp.lt.u16 p:hh
        setp.le.u16 p:hh
        setp.gt.u16 p:hh
        setp.ge.u16 p:hh
        set.lt.u32.u16 r:hh
        setp.eq.s16 p:hh
        setp.ne.s16 p:hh
        setp.lt.s16 p:hh
        setp.le.s16 p:hh
        setp.gt.s16 p:hh
        setp.ge.s16 p:hh
        set.lt.u32.s16 r:hh
        setp.eq.u32 p:rr
        setp.ne.u32 p:rr
        setp.lt.u32 p:rr
        setp.le.u32 p:rr
        setp.gt.u32 p:rr
        setp.ge.u32 p:rr
        set.lt.u32.u32 r:rr
        setp.eq.s32 p:rr
        setp.ne.s32 p:rr
        setp.lt.s32 p:rr
        setp.le.s32 p:rr
        setp.gt.s32 p:rr
        setp.ge.s32 p:rr
        set.lt.u32.s32 r:rr
        setp.eq.u64 p:ll
        setp.ne.u64 p:ll
        setp.lt.u64 p:ll
        setp.le.u64 p:ll
        setp.gt.u64 p:ll
        setp.ge.u64 p:ll
        set.lt.u32.u64 r:ll
        setp.eq.s64 p:ll
        setp.ne.s64 p:ll
        setp.lt.s64 p:ll
        setp.le.s64 p:ll
        setp.gt.s64 p:ll
        setp.ge.s64 p:ll
        set.lt.u32.s64 r:ll
        setp.eq.f32 p:FF
        setp.ne.f32 p:FF
        setp.lt.f32 p:FF
        setp.le.f32 p:FF
        setp.gt.f32 p:FF
        setp.ge.f32 p:FF
        setp.equ.f32 p:FF
        setp.neu.f32 p:FF
        setp.ltu.f32 p:FF
        setp.leu.f32 p:FF
        setp.gtu.f32 p:FF
        setp.geu.f32 p:FF
        setp.num.f32 p:FF
        setp.nan.f32 p:FF
        setp.eq.f64 p:DD
        setp.ne.f64 p:DD
        setp.lt.f64 p:DD
        setp.le.f64 p:DD
        setp.gt.f64 p:DD
        setp.ge.f64 p:DD
        setp.equ.f64 p:DD
        setp.neu.f64 p:DD
        setp.ltu.f64 p:DD
        setp.leu.f64 p:DD
        setp.gtu.f64 p:DD
        setp.geu.f64 p:DD
        setp.num.f64 p:DD
        setp.nan.f64 p:DD
        setp.eq.f16 p:HH
        setp.ne.f16 p:HH
        setp.lt.f16 p:HH
        setp.le.f16 p:HH
        setp.gt.f16 p:HH
        setp.ge.f16 p:HH
        setp.equ.f16 p:HH
        setp.neu.f16 p:HH
        setp.ltu.f16 p:HH
        setp.leu.f16 p:HH
        setp.gtu.f16 p:HH
        setp.geu.f16 p:HH
        setp.num.f16 p:HH
        setp.nan.f16 p:HH
        setp.eq.bf16 p:BB
        setp.ne.bf16 p:BB
        setp.lt.bf16 p:BB
        setp.le.bf16 p:BB
        setp.gt.bf16 p:BB
        setp.ge.bf16 p:BB
        setp.equ.bf16 p:BB
        setp.neu.bf16 p:BB
        setp.ltu.bf16 p:BB
        setp.leu.bf16 p:BB
        setp.gtu.bf16 p:BB
        setp.geu.bf16 p:BB
        setp.num.bf16 p:BB
        setp.nan.bf16 p:BB
        testp.finite.f32 p:F
        testp.infinite.f32 p:F
        testp.number.f32 p:F
        testp.notanumber.f32 p:F
        testp.normal.f32 p:F
        testp.subnormal.f32 p:F
        testp.finite.f64 p:D
        testp.infinite.f64 p:D
        testp.number.f64 p:D
        testp.notanumber.f64 p:D
        testp.normal.f64 p:D
        testp.subnormal.f64 p:D
        slct.s32.s32 r:rrr
        slct.b64.s32 l:llr
        slct.ftz.f32.f32 F:FFF
    ",
};

/// The ISA leaves a NaN's bits open.
pub const SINGLE: Group = Group {
    name: "f32",
    rule: Rule::ulps(Float::F32, 0),
    forms: "
        add.rn.f32 F:FF
        sub.rn.f32 F:FF
        mul.rn.f32 F:FF
        fma.rn.f32 F:FFF
        add.rz.f32 F:FF
        sub.rz.f32 F:FF
        mul.rz.f32 F:FF
        fma.rz.f32 F:FFF
        add.rm.f32 F:FF
        sub.rm.f32 F:FF
        mul.rm.f32 F:FF
        fma.rm.f32 F:FFF
        add.rp.f32 F:FF
        sub.rp.f32 F:FF
        mul.rp.f32 F:FF
        fma.rp.f32 F:FFF
        add.rn.sat.f32 F:FF
        sub.rn.sat.f32 F:FF
        mul.rn.sat.f32 F:FF
        fma.rn.sat.f32 F:FFF
        add.rz.sat.f32 F:FF
        sub.rz.sat.f32 F:FF
        mul.rz.sat.f32 F:FF
        fma.rz.sat.f32 F:FFF
        add.rm.sat.f32 F:FF
        sub.rm.sat.f32 F:FF
        mul.rm.sat.f32 F:FF
        fma.rm.sat.f32 F:FFF
        add.rp.sat.f32 F:FF
        sub.rp.sat.f32 F:FF
        mul.rp.sat.f32 F:FF
        fma.rp.sat.f32 F:FFF
        div.rn.f32 F:FF
        rcp.rn.f32 F:F
        sqrt.rn.f32 F:F
        div.rz.f32 F:FF
        rcp.rz.f32 F:F
        sqrt.rz.f32 F:F
        div.rm.f32 F:FF
        rcp.rm.f32 F:F
        sqrt.rm.f32 F:F
        div.rp.f32 F:FF
        rcp.rp.f32 F:F
        sqrt.rp.f32 F:F
        neg.f32 F:F
        abs.f32 F:F
        min.f32 F:FF
        max.f32 F:FF
        min.xorsign.abs.f32 F:FF
        max.xorsign.abs.f32 F:FF
        min.NaN.f32 F:FF
        max.NaN.f32 F:FF
        min.NaN.xorsign.abs.f32 F:FF
        max.NaN.xorsign.abs.f32 F:FF
        add.rn.ftz.f32 F:FF
        sub.rn.ftz.f32 F:FF
        mul.rn.ftz.f32 F:FF
        fma.rn.ftz.f32 F:FFF
        add.rz.ftz.f32 F:FF
        sub.rz.ftz.f32 F:FF
        mul.rz.ftz.f32 F:FF
        fma.rz.ftz.f32 F:FFF
        add.rm.ftz.f32 F:FF
        sub.rm.ftz.f32 F:FF
        mul.rm.ftz.f32 F:FF
        fma.rm.ftz.f32 F:FFF
        add.rp.ftz.f32 F:FF
        sub.rp.ftz.f32 F:FF
        mul.rp.ftz.f32 F:FF
        fma.rp.ftz.f32 F:FFF
        add.rn.ftz.sat.f32 F:FF
        sub.rn.ftz.sat.f32 F:FF
        mul.rn.ftz.sat.f32 F:FF
        fma.rn.ftz.sat.f32 F:FFF
        add.rz.ftz.sat.f32 F:FF
        sub.rz.ftz.sat.f32 F:FF
        mul.rz.ftz.sat.f32 F:FF
        fma.rz.ftz.sat.f32 F:FFF
        add.rm.ftz.sat.f32 F:FF
        sub.rm.ftz.sat.f32 F:FF
        mul.rm.ftz.sat.f32 F:FF
        fma.rm.ftz.sat.f32 F:FFF
        add.rp.ftz.sat.f32 F:FF
        sub.rp.ftz.sat.f32 F:FF
        mul.rp.ftz.sat.f32 F:FF
        fma.rp.ftz.sat.f32 F:FFF
        div.rn.ftz.f32 F:FF
        rcp.rn.ftz.f32 F:F
        sqrt.rn.ftz.f32 F:F
        div.rz.ftz.f32 F:FF
        rcp.rz.ftz.f32 F:F
        sqrt.rz.ftz.f32 F:F
        div.rm.ftz.f32 F:FF
        rcp.rm.ftz.f32 F:F
        sqrt.rm.ftz.f32 F:F
        div.rp.ftz.f32 F:FF
        rcp.rp.ftz.f32 F:F
        sqrt.rp.ftz.f32 F:F
        neg.ftz.f32 F:F
        abs.ftz.f32 F:F
        min.ftz.f32 F:FF
        max.ftz.f32 F:FF
        min.ftz.xorsign.abs.f32 F:FF
        max.ftz.xorsign.abs.f32 F:FF
        min.ftz.NaN.f32 F:FF
        max.ftz.NaN.f32 F:FF
        min.ftz.NaN.xorsign.abs.f32 F:FF
        max.ftz.NaN.xorsign.abs.f32 F:FF
        copysign.f32 F:FF
    ",
};

/// As above.
pub const DOUBLE: Group = Group {
    name: "f64",
    rule: Rule::ulps(Float::F64, 0),
    forms: "
        add.rn.f64 D:DD
        sub.rn.f64 D:DD
        mul.rn.f64 D:DD
        fma.rn.f64 D:DDD
        div.rn.f64 D:DD
        rcp.rn.f64 D:D
        sqrt.rn.f64 D:D
        add.rz.f64 D:DD
        sub.rz.f64 D:DD
        mul.rz.f64 D:DD
        fma.rz.f64 D:DDD
        div.rz.f64 D:DD
        rcp.rz.f64 D:D
        sqrt.rz.f64 D:D
        add.rm.f64 D:DD
        sub.rm.f64 D:DD
        mul.rm.f64 D:DD
        fma.rm.f64 D:DDD
        div.rm.f64 D:DD
        rcp.rm.f64 D:D
        sqrt.rm.f64 D:D
        add.rp.f64 D:DD
        sub.rp.f64 D:DD
        mul.rp.f64 D:DD
        fma.rp.f64 D:DDD
        div.rp.f64 D:DD
        rcp.rp.f64 D:D
        sqrt.rp.f64 D:D
        min.f64 D:DD
        max.f64 D:DD
        neg.f64 D:D
        abs.f64 D:D
        copysign.f64 D:DD
    ",
};

/// As above.
pub const HALF: Group = Group {
    name: "f16",
    rule: Rule::ulps(Float::F16, 0),
    forms: "
        add.rn.f16 H:HH
        sub.rn.f16 H:HH
        mul.rn.f16 H:HH
        fma.rn.f16 H:HHH
        fma.rn.relu.f16 H:HHH
        neg.f16 H:H
        abs.f16 H:H
        min.f16 H:HH
        max.f16 H:HH
        min.NaN.f16 H:HH
        max.NaN.f16 H:HH
        min.NaN.xorsign.abs.f16 H:HH
        max.NaN.xorsign.abs.f16 H:HH
        add.rn.ftz.f16 H:HH
        add.rn.sat.f16 H:HH
        sub.rn.ftz.f16 H:HH
        sub.rn.sat.f16 H:HH
        mul.rn.ftz.f16 H:HH
        mul.rn.sat.f16 H:HH
        fma.rn.ftz.f16 H:HHH
        fma.rn.sat.f16 H:HHH
        min.ftz.f16 H:HH
        add.rn.f16x2 x:xx
        sub.rn.f16x2 x:xx
        mul.rn.f16x2 x:xx
        fma.rn.f16x2 x:xxx
        fma.rn.relu.f16x2 x:xxx
        neg.f16x2 x:x
        abs.f16x2 x:x
        min.f16x2 x:xx
        max.f16x2 x:xx
        min.NaN.f16x2 x:xx
        max.NaN.f16x2 x:xx
        min.NaN.xorsign.abs.f16x2 x:xx
        max.NaN.xorsign.abs.f16x2 x:xx
        add.rn.ftz.f16x2 x:xx
        add.rn.sat.f16x2 x:xx
        sub.rn.ftz.f16x2 x:xx
        sub.rn.sat.f16x2 x:xx
        mul.rn.ftz.f16x2 x:xx
        mul.rn.sat.f16x2 x:xx
        fma.rn.ftz.f16x2 x:xxx
        fma.rn.sat.f16x2 x:xxx
        min.ftz.f16x2 x:xx
    ",
};

/// As above.
pub const BFLOAT: Group = Group {
    name: "bf16",
    rule: Rule::ulps(Float::Bf16, 0),
    forms: "
        add.rn.bf16 B:BB
        sub.rn.bf16 B:BB
        mul.rn.bf16 B:BB
        fma.rn.bf16 B:BBB
        fma.rn.relu.bf16 B:BBB
        neg.bf16 B:B
        abs.bf16 B:B
        min.bf16 B:BB
        max.bf16 B:BB
        min.NaN.bf16 B:BB
        max.NaN.bf16 B:BB
        min.NaN.xorsign.abs.bf16 B:BB
        max.NaN.xorsign.abs.bf16 B:BB
        add.rn.bf16x2 y:yy
        sub.rn.bf16x2 y:yy
        mul.rn.bf16x2 y:yy
        fma.rn.bf16x2 y:yyy
        fma.rn.relu.bf16x2 y:yyy
        neg.bf16x2 y:y
        abs.bf16x2 y:y
        min.bf16x2 y:yy
        max.bf16x2 y:yy
        min.NaN.bf16x2 y:yy
        max.NaN.bf16x2 y:yy
        min.NaN.xorsign.abs.bf16x2 y:yy
        max.NaN.xorsign.abs.bf16x2 y:yy
    ",
};

pub const CONVERT: Group = Group {
    name: "conversions",
    rule: Rule::Exact,
    forms: "
        cvt.u16.s16 h:h
        cvt.sat.u16.s16 h:h
        cvt.u16.u32 h:r
        cvt.sat.u16.u32 h:r
        cvt.u16.s32 h:r
        cvt.sat.u16.s32 h:r
        cvt.u16.u64 h:l
        cvt.sat.u16.u64 h:l
        cvt.u16.s64 h:l
        cvt.sat.u16.s64 h:l
        cvt.rni.u16.f32 h:F
        cvt.rzi.u16.f32 h:F
        cvt.rmi.u16.f32 h:F
        cvt.rpi.u16.f32 h:F
        cvt.rn.f32.u16 F:h
        cvt.rz.f32.u16 F:h
        cvt.rm.f32.u16 F:h
        cvt.rp.f32.u16 F:h
        cvt.rni.u16.f64 h:D
        cvt.rzi.u16.f64 h:D
        cvt.rmi.u16.f64 h:D
        cvt.rpi.u16.f64 h:D
        cvt.rn.f64.u16 D:h
        cvt.rz.f64.u16 D:h
        cvt.rm.f64.u16 D:h
        cvt.rp.f64.u16 D:h
        cvt.rni.u16.f16 h:H
        cvt.rzi.u16.f16 h:H
        cvt.rmi.u16.f16 h:H
        cvt.rpi.u16.f16 h:H
        cvt.rn.f16.u16 H:h
        cvt.rz.f16.u16 H:h
        cvt.rm.f16.u16 H:h
        cvt.rp.f16.u16 H:h
        cvt.s16.u16 h:h
        cvt.sat.s16.u16 h:h
        cvt.s16.u32 h:r
        cvt.sat.s16.u32 h:r
        cvt.s16.s32 h:r
        cvt.sat.s16.s32 h:r
        cvt.s16.u64 h:l
        cvt.sat.s16.u64 h:l
        cvt.s16.s64 h:l
        cvt.sat.s16.s64 h:l
        cvt.rni.s16.f32 h:F
        cvt.rzi.s16.f32 h:F
        cvt.rmi.s16.f32 h:F
        cvt.rpi.s16.f32 h:F
        cvt.rn.f32.s16 F:h
        cvt.rz.f32.s16 F:h
        cvt.rm.f32.s16 F:h
        cvt.rp.f32.s16 F:h
        cvt.rni.s16.f64 h:D
        cvt.rzi.s16.f64 h:D
        cvt.rmi.s16.f64 h:D
        cvt.rpi.s16.f64 h:D
        cvt.rn.f64.s16 D:h
        cvt.rz.f64.s16 D:h
        cvt.rm.f64.s16 D:h
        cvt.rp.f64.s16 D:h
        cvt.rni.s16.f16 h:H
        cvt.rzi.s16.f16 h:H
        cvt.rmi.s16.f16 h:H
        cvt.rpi.s16.f16 h:H
        cvt.rn.f16.s16 H:h
        cvt.rz.f16.s16 H:h
        cvt.rm.f16.s16 H:h
        cvt.rp.f16.s16 H:h
        cvt.u32.u16 r:h
        cvt.u32.s16 r:h
        cvt.sat.u32.s16 r:h
        cvt.u32.s32 r:r
        cvt.sat.u32.s32 r:r
        cvt.u32.u64 r:l
        cvt.sat.u32.u64 r:l
        cvt.u32.s64 r:l
        cvt.sat.u32.s64 r:l
        cvt.rni.u32.f32 r:F
        cvt.rzi.u32.f32 r:F
        cvt.rmi.u32.f32 r:F
        cvt.rpi.u32.f32 r:F
        cvt.rn.f32.u32 F:r
        cvt.rz.f32.u32 F:r
        cvt.rm.f32.u32 F:r
        cvt.rp.f32.u32 F:r
        cvt.rni.u32.f64 r:D
        cvt.rzi.u32.f64 r:D
        cvt.rmi.u32.f64 r:D
        cvt.rpi.u32.f64 r:D
        cvt.rn.f64.u32 D:r
        cvt.rz.f64.u32 D:r
        cvt.rm.f64.u32 D:r
        cvt.rp.f64.u32 D:r
        cvt.rni.u32.f16 r:H
        cvt.rzi.u32.f16 r:H
        cvt.rmi.u32.f16 r:H
        cvt.rpi.u32.f16 r:H
        cvt.rn.f16.u32 H:r
        cvt.rz.f16.u32 H:r
        cvt.rm.f16.u32 H:r
        cvt.rp.f16.u32 H:r
        cvt.s32.u16 r:h
        cvt.s32.s16 r:h
        cvt.s32.u32 r:r
        cvt.sat.s32.u32 r:r
        cvt.s32.u64 r:l
        cvt.sat.s32.u64 r:l
        cvt.s32.s64 r:l
        cvt.sat.s32.s64 r:l
        cvt.rni.s32.f32 r:F
        cvt.rzi.s32.f32 r:F
        cvt.rmi.s32.f32 r:F
        cvt.rpi.s32.f32 r:F
        cvt.rn.f32.s32 F:r
        cvt.rz.f32.s32 F:r
        cvt.rm.f32.s32 F:r
        cvt.rp.f32.s32 F:r
        cvt.rni.s32.f64 r:D
        cvt.rzi.s32.f64 r:D
        cvt.rmi.s32.f64 r:D
        cvt.rpi.s32.f64 r:D
        cvt.rn.f64.s32 D:r
        cvt.rz.f64.s32 D:r
        cvt.rm.f64.s32 D:r
        cvt.rp.f64.s32 D:r
        cvt.rni.s32.f16 r:H
        cvt.rzi.s32.f16 r:H
        cvt.rmi.s32.f16 r:H
        cvt.rpi.s32.f16 r:H
        cvt.rn.f16.s32 H:r
        cvt.rz.f16.s32 H:r
        cvt.rm.f16.s32 H:r
        cvt.rp.f16.s32 H:r
        cvt.u64.u16 l:h
        cvt.u64.s16 l:h
        cvt.sat.u64.s16 l:h
        cvt.u64.u32 l:r
        cvt.u64.s32 l:r
        cvt.sat.u64.s32 l:r
        cvt.u64.s64 l:l
        cvt.sat.u64.s64 l:l
        cvt.rni.u64.f32 l:F
        cvt.rzi.u64.f32 l:F
        cvt.rmi.u64.f32 l:F
        cvt.rpi.u64.f32 l:F
        cvt.rn.f32.u64 F:l
        cvt.rz.f32.u64 F:l
        cvt.rm.f32.u64 F:l
        cvt.rp.f32.u64 F:l
        cvt.rni.u64.f64 l:D
        cvt.rzi.u64.f64 l:D
        cvt.rmi.u64.f64 l:D
        cvt.rpi.u64.f64 l:D
        cvt.rn.f64.u64 D:l
        cvt.rz.f64.u64 D:l
        cvt.rm.f64.u64 D:l
        cvt.rp.f64.u64 D:l
        cvt.rni.u64.f16 l:H
        cvt.rzi.u64.f16 l:H
        cvt.rmi.u64.f16 l:H
        cvt.rpi.u64.f16 l:H
        cvt.rn.f16.u64 H:l
        cvt.rz.f16.u64 H:l
        cvt.rm.f16.u64 H:l
        cvt.rp.f16.u64 H:l
        cvt.s64.u16 l:h
        cvt.s64.s16 l:h
        cvt.s64.u32 l:r
        cvt.s64.s32 l:r
        cvt.s64.u64 l:l
        cvt.sat.s64.u64 l:l
        cvt.rni.s64.f32 l:F
        cvt.rzi.s64.f32 l:F
        cvt.rmi.s64.f32 l:F
        cvt.rpi.s64.f32 l:F
        cvt.rn.f32.s64 F:l
        cvt.rz.f32.s64 F:l
        cvt.rm.f32.s64 F:l
        cvt.rp.f32.s64 F:l
        cvt.rni.s64.f64 l:D
        cvt.rzi.s64.f64 l:D
        cvt.rmi.s64.f64 l:D
        cvt.rpi.s64.f64 l:D
        cvt.rn.f64.s64 D:l
        cvt.rz.f64.s64 D:l
        cvt.rm.f64.s64 D:l
        cvt.rp.f64.s64 D:l
        cvt.rni.s64.f16 l:H
        cvt.rzi.s64.f16 l:H
        cvt.rmi.s64.f16 l:H
        cvt.rpi.s64.f16 l:H
        cvt.rn.f16.s64 H:l
        cvt.rz.f16.s64 H:l
        cvt.rm.f16.s64 H:l
        cvt.rp.f16.s64 H:l
        cvt.rni.f32.f32 F:F
        cvt.rni.f64.f64 D:D
        cvt.rni.f16.f16 H:H
        cvt.rzi.f32.f32 F:F
        cvt.rzi.f64.f64 D:D
        cvt.rzi.f16.f16 H:H
        cvt.rmi.f32.f32 F:F
        cvt.rmi.f64.f64 D:D
        cvt.rmi.f16.f16 H:H
        cvt.rpi.f32.f32 F:F
        cvt.rpi.f64.f64 D:D
        cvt.rpi.f16.f16 H:H
        cvt.rn.f32.f64 F:D
        cvt.rz.f32.f64 F:D
        cvt.rm.f32.f64 F:D
        cvt.rp.f32.f64 F:D
        cvt.rn.f16.f32 H:F
        cvt.rn.bf16.f32 B:F
        cvt.rn.f16x2.f32 x:FF
        cvt.rn.bf16x2.f32 y:FF
        cvt.rn.relu.f16x2.f32 x:FF
        cvt.rn.relu.bf16x2.f32 y:FF
        cvt.rz.f16.f32 H:F
        cvt.rz.bf16.f32 B:F
        cvt.rz.f16x2.f32 x:FF
        cvt.rz.bf16x2.f32 y:FF
        cvt.rz.relu.f16x2.f32 x:FF
        cvt.rz.relu.bf16x2.f32 y:FF
        cvt.f32.f16 F:H
        cvt.f32.bf16 F:B
        cvt.f64.f32 D:F
        cvt.f64.f16 D:H
        cvt.rna.tf32.f32 r:F
        cvt.ftz.f32.f16 F:H
        cvt.sat.f32.f32 F:F
        cvt.rn.satfinite.e4m3x2.f32 h:FF
        cvt.rn.satfinite.relu.e4m3x2.f32 h:FF
        cvt.rn.satfinite.e4m3x2.f16x2 h:x
        cvt.rn.f16x2.e4m3x2 x:h
        cvt.rn.relu.f16x2.e4m3x2 x:h
        cvt.rn.satfinite.e5m2x2.f32 h:FF
        cvt.rn.satfinite.relu.e5m2x2.f32 h:FF
        cvt.rn.satfinite.e5m2x2.f16x2 h:x
        cvt.rn.f16x2.e5m2x2 x:h
        cvt.rn.relu.f16x2.e5m2x2 x:h
    ",
};

/// The ISA's 1 ulp from the exact value; softcuda rounds it, half a unit more.
pub const ONE_ULP: Group = Group {
    name: "approximations to 1 ulp",
    rule: Rule::ulps(Float::F32, 2),
    forms: "
        rcp.approx.f32 F:F
        rcp.approx.ftz.f32 F:F
    ",
};

/// 2 ulp, and softcuda's own half.
pub const TWO_ULP: Group = Group {
    name: "approximations to 2 ulp",
    rule: Rule::ulps(Float::F32, 3),
    forms: "
        div.approx.f32 F:FF
        div.approx.ftz.f32 F:FF
        div.full.f32 F:FF
        div.full.ftz.f32 F:FF
        ex2.approx.f32 F:F
        ex2.approx.ftz.f32 F:F
    ",
};

/// 2^-23 and 2^-22.9 relative (1.28e-7), and half a unit (0.6e-7) of softcuda's.
pub const ROOTS: Group = Group {
    name: "approximate square roots",
    rule: Rule::relative(Float::F32, 2.0e-7),
    forms: "
        sqrt.approx.f32 F:F
        sqrt.approx.ftz.f32 F:F
        rsqrt.approx.f32 F:F
        rsqrt.approx.ftz.f32 F:F
    ",
};

/// 2^-22 (2.4e-7): absolute near 1, relative elsewhere; and half a unit of softcuda's.
pub const LOGARITHM: Group = Group {
    name: "lg2.approx",
    rule: Rule::Near {
        float: Float::F32,
        ulps: 0,
        relative: 3.0e-7,
        absolute: 3.0e-7,
    },
    forms: "
        lg2.approx.f32 F:F
        lg2.approx.ftz.f32 F:F
    ",
};

/// 2^-20.5 (6.7e-7) absolute, and half a unit of softcuda's.
pub const SINE: Group = Group {
    name: "sin and cos from -2π to 2π",
    rule: Rule::absolute(Float::F32, 7.4e-7),
    forms: "
        sin.approx.f32 F:t
        cos.approx.f32 F:t
        sin.approx.ftz.f32 F:t
        cos.approx.ftz.f32 F:t
    ",
};

/// 2^-11 relative (4.883e-4), and half a unit of softcuda's.
pub const TANH: Group = Group {
    name: "tanh.approx.f32",
    rule: Rule::relative(Float::F32, 4.9e-4),
    forms: "
        tanh.approx.f32 F:F
    ",
};

/// ex2: 2^-9.9 relative (1.05e-3); tanh: 2^-10.987 absolute; softcuda's half unit (2^-11 relative), and the last
/// bit of a subnormal number.
pub const HALF_FUNCTIONS: Group = Group {
    name: "functions of f16",
    rule: Rule::Near {
        float: Float::F16,
        ulps: 1,
        relative: 1.6e-3,
        absolute: 0.0,
    },
    forms: "
        ex2.approx.f16 H:H
        ex2.approx.f16x2 x:x
        tanh.approx.f16 H:H
        tanh.approx.f16x2 x:x
    ",
};

/// ex2: 2^-7 relative; tanh: 2^-8 absolute; softcuda's half unit (2^-8 relative).
pub const BFLOAT_FUNCTIONS: Group = Group {
    name: "functions of bf16",
    rule: Rule::Near {
        float: Float::Bf16,
        ulps: 1,
        relative: 0.0118,
        absolute: 0.0,
    },
    forms: "
        ex2.approx.ftz.bf16 B:B
        ex2.approx.ftz.bf16x2 y:y
        tanh.approx.bf16 B:B
        tanh.approx.bf16x2 y:y
    ",
};

/// Products on tensor cores: shape and types, k, the letter of the factors, registers of a, b and of c, and whether c
/// is f16.
pub const PRODUCTS: &[(&str, usize, char, [usize; 3], bool)] = &[
    ("m16n8k8.row.col.f32.f16.f16.f32", 8, 'x', [2, 1, 4], false),
    ("m16n8k16.row.col.f32.f16.f16.f32", 16, 'x', [4, 2, 4], false),
    ("m16n8k16.row.col.f16.f16.f16.f16", 16, 'x', [4, 2, 2], true),
    ("m16n8k8.row.col.f32.bf16.bf16.f32", 8, 'y', [2, 1, 4], false),
    ("m16n8k16.row.col.f32.bf16.bf16.f32", 16, 'y', [4, 2, 4], false),
    ("m16n8k4.row.col.f32.tf32.tf32.f32", 4, 'T', [2, 1, 4], false),
    ("m16n8k8.row.col.f32.tf32.tf32.f32", 8, 'T', [4, 2, 4], false),
];

/// What a form gives, from its operands.
type Expected = fn(&[u64]) -> u64;

/// Answers that Rust's own arithmetic knows.
pub const EXPECTED: &[(&str, Expected)] = &[
    ("add.u16 h:hh", |x| (x[0] as u16).wrapping_add(x[1] as u16).into()),
    ("sub.s32 r:rr", |x| (x[0] as u32).wrapping_sub(x[1] as u32).into()),
    ("mul.lo.s64 l:ll", |x| x[0].wrapping_mul(x[1])),
    ("mul.hi.u64 l:ll", |x| {
        ((u128::from(x[0]) * u128::from(x[1])) >> 64) as u64
    }),
    ("mul.wide.s32 l:rr", |x| {
        (i64::from(x[0] as i32) * i64::from(x[1] as i32)) as u64
    }),
    ("mad.lo.u32 r:rrr", |x| {
        (x[0] as u32)
            .wrapping_mul(x[1] as u32)
            .wrapping_add(x[2] as u32)
            .into()
    }),
    ("min.s32 r:rr", |x| (x[0] as i32).min(x[1] as i32) as u32 as u64),
    ("max.u64 l:ll", |x| x[0].max(x[1])),
    ("and.b32 r:rr", |x| x[0] & x[1] & 0xffff_ffff),
    ("xor.b64 l:ll", |x| x[0] ^ x[1]),
    ("popc.b64 r:l", |x| x[0].count_ones().into()),
    ("clz.b32 r:r", |x| (x[0] as u32).leading_zeros().into()),
    ("brev.b64 l:l", |x| x[0].reverse_bits()),
    ("shl.b32 r:rs", |x| {
        u64::from((x[0] as u32).checked_shl(x[1] as u32).unwrap_or(0))
    }),
    ("shr.s32 r:rs", |x| ((x[0] as i32) >> x[1].min(31)) as u32 as u64),
    ("add.sat.s32 r:rr", |x| {
        (x[0] as i32).saturating_add(x[1] as i32) as u32 as u64
    }),
    ("setp.lt.s64 p:ll", |x| ((x[0] as i64) < x[1] as i64).into()),
    ("setp.ltu.f64 p:DD", |x| {
        let [a, b] = [x[0], x[1]].map(f64::from_bits);
        (a < b || a.is_nan() || b.is_nan()).into()
    }),
    ("cvt.s64.s32 l:r", |x| i64::from(x[0] as i32) as u64),
    ("cvt.rn.f64.s64 D:l", |x| (x[0] as i64 as f64).to_bits()),
    ("cvt.rn.f32.u32 F:r", |x| (x[0] as u32 as f32).to_bits().into()),
];
