#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# What the hook is compared with: a hookscript as people write them in Perl, which reads the VM's config, finds nothing
# to do and leaves.
use strict;
use warnings;

my ($vmid, $phase) = @ARGV;
die "usage: plain_hook.pl VMID PHASE\n" if !defined($phase);
my $root = $ENV{PVEPASSTHRU_ROOT} // '';
if ($phase eq 'pre-start') {
    my $path = "$root/etc/pve/qemu-server/$vmid.conf";
    open(my $file, '<', $path) or die "cannot read $path: $!\n";
    my @entries = grep { /^hostpci\d+:/ } <$file>;
    close($file);
    die "VM $vmid has devices, and this hook does nothing for them\n" if @entries;
}
exit(0);
