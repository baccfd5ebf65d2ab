"""What Arm's manual says (DDI 0487, Arm Architecture Reference Manual for A-profile): registers,
translation tables and their walk, syndromes, states; no kernel."""
