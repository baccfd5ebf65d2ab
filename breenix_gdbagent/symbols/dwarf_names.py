"""The numbers of DWARF by the names that the standard gives them, as far as we read them.

Source: DWARF 5 section 7 (tables 7.3, 7.5, 7.6, 7.9, 7.11, 7.25 to 7.27 and 7.29), DWARF 4 for
what version 5 has given up; LSB Core, "DWARF Extensions" (DW_EH_PE); binutils include/dwarf2.def
for what GNU has added.
"""

from __future__ import annotations

from typing import Final

# Unit types
DW_UT_compile: Final = 0x01
DW_UT_type: Final = 0x02
DW_UT_partial: Final = 0x03
DW_UT_skeleton: Final = 0x04

# Tags
DW_TAG_array_type: Final = 0x01
DW_TAG_enumeration_type: Final = 0x04
DW_TAG_formal_parameter: Final = 0x05
DW_TAG_lexical_block: Final = 0x0B
DW_TAG_member: Final = 0x0D
DW_TAG_pointer_type: Final = 0x0F
DW_TAG_reference_type: Final = 0x10
DW_TAG_compile_unit: Final = 0x11
DW_TAG_structure_type: Final = 0x13
DW_TAG_subroutine_type: Final = 0x15
DW_TAG_typedef: Final = 0x16
DW_TAG_union_type: Final = 0x17
DW_TAG_variant: Final = 0x19
DW_TAG_inlined_subroutine: Final = 0x1D
DW_TAG_subrange_type: Final = 0x21
DW_TAG_base_type: Final = 0x24
DW_TAG_const_type: Final = 0x26
DW_TAG_enumerator: Final = 0x28
DW_TAG_subprogram: Final = 0x2E
DW_TAG_template_type_parameter: Final = 0x2F
DW_TAG_variant_part: Final = 0x33
DW_TAG_variable: Final = 0x34
DW_TAG_volatile_type: Final = 0x35
DW_TAG_namespace: Final = 0x39

# Attributes
DW_AT_location: Final = 0x02
DW_AT_name: Final = 0x03
DW_AT_byte_size: Final = 0x0B
DW_AT_stmt_list: Final = 0x10
DW_AT_low_pc: Final = 0x11
DW_AT_high_pc: Final = 0x12
DW_AT_discr: Final = 0x15
DW_AT_discr_value: Final = 0x16
DW_AT_comp_dir: Final = 0x1B
DW_AT_const_value: Final = 0x1C
DW_AT_containing_type: Final = 0x1D
DW_AT_upper_bound: Final = 0x2F
DW_AT_abstract_origin: Final = 0x31
DW_AT_count: Final = 0x37
DW_AT_data_member_location: Final = 0x38
DW_AT_declaration: Final = 0x3C
DW_AT_discr_list: Final = 0x3D
DW_AT_encoding: Final = 0x3E
DW_AT_frame_base: Final = 0x40
DW_AT_specification: Final = 0x47
DW_AT_type: Final = 0x49
DW_AT_entry_pc: Final = 0x52
DW_AT_ranges: Final = 0x55
DW_AT_call_file: Final = 0x58
DW_AT_call_line: Final = 0x59
DW_AT_linkage_name: Final = 0x6E
DW_AT_str_offsets_base: Final = 0x72
DW_AT_addr_base: Final = 0x73
DW_AT_rnglists_base: Final = 0x74
DW_AT_dwo_name: Final = 0x76
DW_AT_alignment: Final = 0x88
DW_AT_loclists_base: Final = 0x8C
DW_AT_GNU_dwo_name: Final = 0x2130

# Base type encodings
DW_ATE_boolean: Final = 0x02
DW_ATE_float: Final = 0x04
DW_ATE_signed: Final = 0x05
DW_ATE_signed_char: Final = 0x06
DW_ATE_unsigned: Final = 0x07
DW_ATE_unsigned_char: Final = 0x08
DW_ATE_UTF: Final = 0x10

# Forms
DW_FORM_addr: Final = 0x01
DW_FORM_block2: Final = 0x03
DW_FORM_block4: Final = 0x04
DW_FORM_data2: Final = 0x05
DW_FORM_data4: Final = 0x06
DW_FORM_data8: Final = 0x07
DW_FORM_string: Final = 0x08
DW_FORM_block: Final = 0x09
DW_FORM_block1: Final = 0x0A
DW_FORM_data1: Final = 0x0B
DW_FORM_flag: Final = 0x0C
DW_FORM_sdata: Final = 0x0D
DW_FORM_strp: Final = 0x0E
DW_FORM_udata: Final = 0x0F
DW_FORM_ref_addr: Final = 0x10
DW_FORM_ref1: Final = 0x11
DW_FORM_ref2: Final = 0x12
DW_FORM_ref4: Final = 0x13
DW_FORM_ref8: Final = 0x14
DW_FORM_ref_udata: Final = 0x15
DW_FORM_indirect: Final = 0x16
DW_FORM_sec_offset: Final = 0x17
DW_FORM_exprloc: Final = 0x18
DW_FORM_flag_present: Final = 0x19
DW_FORM_strx: Final = 0x1A
DW_FORM_addrx: Final = 0x1B
DW_FORM_ref_sup4: Final = 0x1C
DW_FORM_strp_sup: Final = 0x1D
DW_FORM_data16: Final = 0x1E
DW_FORM_line_strp: Final = 0x1F
DW_FORM_ref_sig8: Final = 0x20
DW_FORM_implicit_const: Final = 0x21
DW_FORM_loclistx: Final = 0x22
DW_FORM_rnglistx: Final = 0x23
DW_FORM_ref_sup8: Final = 0x24
DW_FORM_strx1: Final = 0x25
DW_FORM_strx2: Final = 0x26
DW_FORM_strx3: Final = 0x27
DW_FORM_strx4: Final = 0x28
DW_FORM_addrx1: Final = 0x29
DW_FORM_addrx2: Final = 0x2A
DW_FORM_addrx3: Final = 0x2B
DW_FORM_addrx4: Final = 0x2C

# Call-frame instructions: of the first three the low six bits are an operand.
DW_CFA_advance_loc: Final = 0x40
DW_CFA_offset: Final = 0x80
DW_CFA_restore: Final = 0xC0
DW_CFA_nop: Final = 0x00
DW_CFA_set_loc: Final = 0x01
DW_CFA_advance_loc1: Final = 0x02
DW_CFA_advance_loc2: Final = 0x03
DW_CFA_advance_loc4: Final = 0x04
DW_CFA_offset_extended: Final = 0x05
DW_CFA_restore_extended: Final = 0x06
DW_CFA_undefined: Final = 0x07
DW_CFA_same_value: Final = 0x08
DW_CFA_register: Final = 0x09
DW_CFA_remember_state: Final = 0x0A
DW_CFA_restore_state: Final = 0x0B
DW_CFA_def_cfa: Final = 0x0C
DW_CFA_def_cfa_register: Final = 0x0D
DW_CFA_def_cfa_offset: Final = 0x0E
DW_CFA_def_cfa_expression: Final = 0x0F
DW_CFA_expression: Final = 0x10
DW_CFA_offset_extended_sf: Final = 0x11
DW_CFA_def_cfa_sf: Final = 0x12
DW_CFA_def_cfa_offset_sf: Final = 0x13
DW_CFA_val_offset: Final = 0x14
DW_CFA_val_offset_sf: Final = 0x15
DW_CFA_val_expression: Final = 0x16
DW_CFA_MIPS_advance_loc8: Final = 0x1D
DW_CFA_GNU_window_save: Final = 0x2D
DW_CFA_GNU_args_size: Final = 0x2E
DW_CFA_GNU_negative_offset_extended: Final = 0x2F

# Pointers in .eh_frame: the low nibble is the format, bits 4 to 6 what it is relative to.
DW_EH_PE_absptr: Final = 0x00
DW_EH_PE_uleb128: Final = 0x01
DW_EH_PE_udata2: Final = 0x02
DW_EH_PE_udata4: Final = 0x03
DW_EH_PE_udata8: Final = 0x04
DW_EH_PE_sleb128: Final = 0x09
DW_EH_PE_sdata2: Final = 0x0A
DW_EH_PE_sdata4: Final = 0x0B
DW_EH_PE_sdata8: Final = 0x0C
DW_EH_PE_pcrel: Final = 0x10
DW_EH_PE_indirect: Final = 0x80
DW_EH_PE_omit: Final = 0xFF

# Line programs: standard and extended opcodes, and what a file or directory entry says
DW_LNS_copy: Final = 0x01
DW_LNS_advance_pc: Final = 0x02
DW_LNS_advance_line: Final = 0x03
DW_LNS_set_file: Final = 0x04
DW_LNS_set_column: Final = 0x05
DW_LNS_negate_stmt: Final = 0x06
DW_LNS_set_basic_block: Final = 0x07
DW_LNS_const_add_pc: Final = 0x08
DW_LNS_fixed_advance_pc: Final = 0x09
DW_LNS_set_prologue_end: Final = 0x0A
DW_LNS_set_epilogue_begin: Final = 0x0B
DW_LNS_set_isa: Final = 0x0C
DW_LNE_end_sequence: Final = 0x01
DW_LNE_set_address: Final = 0x02
DW_LNE_define_file: Final = 0x03
DW_LNE_set_discriminator: Final = 0x04
DW_LNCT_path: Final = 0x01
DW_LNCT_directory_index: Final = 0x02

# Entries of range lists
DW_RLE_end_of_list: Final = 0x00
DW_RLE_base_addressx: Final = 0x01
DW_RLE_startx_endx: Final = 0x02
DW_RLE_startx_length: Final = 0x03
DW_RLE_offset_pair: Final = 0x04
DW_RLE_base_address: Final = 0x05
DW_RLE_start_end: Final = 0x06
DW_RLE_start_length: Final = 0x07

# Location-list entries
DW_LLE_end_of_list: Final = 0x00
DW_LLE_base_addressx: Final = 0x01
DW_LLE_startx_endx: Final = 0x02
DW_LLE_startx_length: Final = 0x03
DW_LLE_offset_pair: Final = 0x04
DW_LLE_default_location: Final = 0x05
DW_LLE_base_address: Final = 0x06
DW_LLE_start_end: Final = 0x07
DW_LLE_start_length: Final = 0x08

# Operations of expressions
DW_OP_addr: Final = 0x03
DW_OP_deref: Final = 0x06
DW_OP_const1u: Final = 0x08
DW_OP_const1s: Final = 0x09
DW_OP_const2u: Final = 0x0A
DW_OP_const2s: Final = 0x0B
DW_OP_const4u: Final = 0x0C
DW_OP_const4s: Final = 0x0D
DW_OP_const8u: Final = 0x0E
DW_OP_const8s: Final = 0x0F
DW_OP_constu: Final = 0x10
DW_OP_consts: Final = 0x11
DW_OP_dup: Final = 0x12
DW_OP_drop: Final = 0x13
DW_OP_over: Final = 0x14
DW_OP_pick: Final = 0x15
DW_OP_swap: Final = 0x16
DW_OP_rot: Final = 0x17
DW_OP_xderef: Final = 0x18
DW_OP_abs: Final = 0x19
DW_OP_and: Final = 0x1A
DW_OP_div: Final = 0x1B
DW_OP_minus: Final = 0x1C
DW_OP_mod: Final = 0x1D
DW_OP_mul: Final = 0x1E
DW_OP_neg: Final = 0x1F
DW_OP_not: Final = 0x20
DW_OP_or: Final = 0x21
DW_OP_plus: Final = 0x22
DW_OP_plus_uconst: Final = 0x23
DW_OP_shl: Final = 0x24
DW_OP_shr: Final = 0x25
DW_OP_shra: Final = 0x26
DW_OP_xor: Final = 0x27
DW_OP_bra: Final = 0x28
DW_OP_eq: Final = 0x29
DW_OP_ge: Final = 0x2A
DW_OP_gt: Final = 0x2B
DW_OP_le: Final = 0x2C
DW_OP_lt: Final = 0x2D
DW_OP_ne: Final = 0x2E
DW_OP_skip: Final = 0x2F
DW_OP_lit0: Final = 0x30
DW_OP_lit31: Final = 0x4F
DW_OP_reg0: Final = 0x50
DW_OP_reg31: Final = 0x6F
DW_OP_breg0: Final = 0x70
DW_OP_breg31: Final = 0x8F
DW_OP_regx: Final = 0x90
DW_OP_fbreg: Final = 0x91
DW_OP_bregx: Final = 0x92
DW_OP_piece: Final = 0x93
DW_OP_deref_size: Final = 0x94
DW_OP_xderef_size: Final = 0x95
DW_OP_nop: Final = 0x96
DW_OP_push_object_address: Final = 0x97
DW_OP_call2: Final = 0x98
DW_OP_call4: Final = 0x99
DW_OP_call_ref: Final = 0x9A
DW_OP_form_tls_address: Final = 0x9B
DW_OP_call_frame_cfa: Final = 0x9C
DW_OP_bit_piece: Final = 0x9D
DW_OP_implicit_value: Final = 0x9E
DW_OP_stack_value: Final = 0x9F
DW_OP_implicit_pointer: Final = 0xA0
DW_OP_addrx: Final = 0xA1
DW_OP_constx: Final = 0xA2
DW_OP_entry_value: Final = 0xA3
DW_OP_const_type: Final = 0xA4
DW_OP_regval_type: Final = 0xA5
DW_OP_deref_type: Final = 0xA6
DW_OP_xderef_type: Final = 0xA7
DW_OP_convert: Final = 0xA8
DW_OP_reinterpret: Final = 0xA9
DW_OP_GNU_push_tls_address: Final = 0xE0
DW_OP_GNU_implicit_pointer: Final = 0xF2
DW_OP_GNU_entry_value: Final = 0xF3
DW_OP_GNU_addr_index: Final = 0xFB
DW_OP_GNU_const_index: Final = 0xFC


def name_of(prefix: str, number: int) -> str:
    """``DW_OP_bregx``: the name of a number of one kind, or ``DW_OP 0xf5`` where it has none."""
    names = (n for n, v in globals().items() if v == number and n.startswith(f"{prefix}_"))
    return next(names, f"{prefix} {number:#x}")
