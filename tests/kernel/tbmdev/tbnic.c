// SPDX-License-Identifier: GPL-2.0
/*
 * tbnic: test fixture. A PCI driver, bound only through driver_override, that makes a network
 * interface of a physical function and keeps what is set of its virtual functions through it
 * (`ip link set dev NET vf N ...`), as the drivers of network cards with SR-IOV do. It carries no
 * packets. For the kernels 6.1 to 6.12.
 */
#include <linux/etherdevice.h>
#include <linux/if_link.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/pci.h>

static bool needs_up;
module_param(needs_up, bool, 0644);
MODULE_PARM_DESC(needs_up, "with the interface down make no VFs, and say that all went well, as bnxt_en does");
static bool no_rate;
module_param(no_rate, bool, 0644);
MODULE_PARM_DESC(no_rate, "refuse rates (EOPNOTSUPP)");
static bool forgets;
module_param(forgets, bool, 0644);
MODULE_PARM_DESC(forgets, "take what is set of trust, and do not keep it");

#define MOST 8

struct tn {
	struct net_device *dev;
	struct ifla_vf_info vf[MOST];
};

static struct tn *to_tn(struct net_device *dev)
{
	return *(struct tn **)netdev_priv(dev);
}

static int tn_bad(struct net_device *dev, int vf)
{
	return vf < 0 || vf >= min(MOST, dev_num_vf(dev->dev.parent)) ? -EINVAL : 0;
}

static int tn_mac(struct net_device *dev, int vf, u8 *mac)
{
	if (tn_bad(dev, vf) || is_multicast_ether_addr(mac))
		return -EINVAL;
	ether_addr_copy(to_tn(dev)->vf[vf].mac, mac);
	return 0;
}

static int tn_vlan(struct net_device *dev, int vf, u16 vlan, u8 qos, __be16 proto)
{
	if (tn_bad(dev, vf) || vlan > 4095 || qos > 7)
		return -EINVAL;
	to_tn(dev)->vf[vf].vlan = vlan;
	to_tn(dev)->vf[vf].qos = qos;
	to_tn(dev)->vf[vf].vlan_proto = proto;
	return 0;
}

static int tn_rate(struct net_device *dev, int vf, int least, int most)
{
	if (no_rate)
		return -EOPNOTSUPP;
	if (tn_bad(dev, vf))
		return -EINVAL;
	to_tn(dev)->vf[vf].min_tx_rate = least;
	to_tn(dev)->vf[vf].max_tx_rate = most;
	return 0;
}

static int tn_spoofchk(struct net_device *dev, int vf, bool on)
{
	if (tn_bad(dev, vf))
		return -EINVAL;
	to_tn(dev)->vf[vf].spoofchk = on;
	return 0;
}

static int tn_trust(struct net_device *dev, int vf, bool on)
{
	if (tn_bad(dev, vf))
		return -EINVAL;
	if (!forgets)
		to_tn(dev)->vf[vf].trusted = on;
	return 0;
}

static int tn_state(struct net_device *dev, int vf, int state)
{
	if (tn_bad(dev, vf))
		return -EINVAL;
	to_tn(dev)->vf[vf].linkstate = state;
	return 0;
}

static int tn_get(struct net_device *dev, int vf, struct ifla_vf_info *info)
{
	if (tn_bad(dev, vf))
		return -EINVAL;
	*info = to_tn(dev)->vf[vf];
	info->vf = vf;
	return 0;
}

static netdev_tx_t tn_xmit(struct sk_buff *skb, struct net_device *dev)
{
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops tn_ops = {
	.ndo_start_xmit = tn_xmit,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_set_vf_mac = tn_mac,
	.ndo_set_vf_vlan = tn_vlan,
	.ndo_set_vf_rate = tn_rate,
	.ndo_set_vf_spoofchk = tn_spoofchk,
	.ndo_set_vf_trust = tn_trust,
	.ndo_set_vf_link_state = tn_state,
	.ndo_get_vf_config = tn_get,
};

static int tn_configure(struct pci_dev *pdev, int count)
{
	struct tn *tn = pci_get_drvdata(pdev);
	int vf;

	if (count > MOST)
		return -ERANGE;
	if (count && needs_up && !netif_running(tn->dev))
		return 0;
	memset(tn->vf, 0, sizeof(tn->vf));
	for (vf = 0; vf < MOST; vf++)
		tn->vf[vf].spoofchk = 1;
	return pci_sriov_configure_simple(pdev, count);
}

static int tn_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	static const u8 mac[ETH_ALEN] = { 0x52, 0x54, 0x00, 0x0b, 0x0e, 0x01 };
	struct tn *tn = devm_kzalloc(&pdev->dev, sizeof(*tn), GFP_KERNEL);
	struct net_device *dev;
	int ret;

	if (!tn || !pci_sriov_get_totalvfs(pdev))
		return tn ? -ENODEV : -ENOMEM;
	dev = alloc_etherdev(sizeof(tn));
	if (!dev)
		return -ENOMEM;
	*(struct tn **)netdev_priv(dev) = tn;
	tn->dev = dev;
	dev->netdev_ops = &tn_ops;
	SET_NETDEV_DEV(dev, &pdev->dev);
	eth_hw_addr_set(dev, mac);
	strscpy(dev->name, "tbnic%d", IFNAMSIZ);
	pci_set_drvdata(pdev, tn);
	ret = register_netdev(dev);
	if (ret)
		free_netdev(dev);
	return ret;
}

static void tn_remove(struct pci_dev *pdev)
{
	struct tn *tn = pci_get_drvdata(pdev);

	pci_disable_sriov(pdev);
	unregister_netdev(tn->dev);
	free_netdev(tn->dev);
}

static struct pci_driver tn_driver = {
	.name = "tbnic", .probe = tn_probe, .remove = tn_remove, .sriov_configure = tn_configure,
};
module_pci_driver(tn_driver);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("network interface with settings of VFs, on any PF");
