"""What the numbers mean: the definition of every metric, its denominator, and what is good for the defender."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """What a number means. better: "higher" or "lower", for the defender."""

    text: str
    denominator: str
    better: str


DEFINITIONS = {
    "clean_accuracy": Definition("share of images that the model classifies correctly", "all images", "higher"),
    "robust_accuracy": Definition(
        "share of images that the model classifies correctly and that the attack, within the budget, does "
        "not make it misclassify",
        "all images",
        "higher",
    ),
    "attack_success_rate": Definition(
        "share of correctly classified images on which the attack reaches its goal",
        "correctly classified images",
        "lower",
    ),
    "perturbation_size": Definition(
        "mean norm of x_adv - x, in the budget's norm, over successful attacks", "successful attacks", "higher"
    ),
    "median_size": Definition(
        "median over correctly classified images of the smallest perturbation found, in the budget's measure; "
        "none within the budget counts as infinite",
        "correctly classified images",
        "higher",
    ),
    "rejected_clean": Definition(
        "share of clean images that get no answer, though the model's answer would have been right: false positives",
        "images whose likeliest class is the right one",
        "lower",
    ),
    "rejected_attacked": Definition(
        "share of attacked images that get no answer as the attack hands them in, whether or not they fool the model "
        "else: the detection rate, where the attack knows of no detector",
        "attacked images",
        "higher",
    ),
    "detection_auc": Definition(
        "area under the ROC curve of the detector's score: the probability that an attacked image scores higher than a "
        "clean one, ties counting half; interval by bootstrap over images",
        "images whose likeliest class is the right one, clean, and those attacked",
        "higher",
    ),
    "certified_accuracy": Definition(
        "share of images that the model classifies correctly and of which the certifier proves that no point of the "
        "budget changes that",
        "all images",
        "higher",
    ),
    "average_certified_radius": Definition(
        "mean of the largest radius, in the budget's norm, at which an image is certified; 0 where the model is wrong "
        "or abstains",
        "all images",
        "higher",
    ),
    "median_certified_radius": Definition(
        "the largest radius (number of poisons) at which at least half of all images are certified; 0 for none",
        "all images",
        "higher",
    ),
    "undecided": Definition(
        "share of images that the model classifies correctly and that are neither certified nor broken by an "
        "adversarial example",
        "all images",
        "lower",
    ),
    "failure_probability": Definition(
        "probability, for each image, that its certificate is wrong; 0 for a proof", "all images", "lower"
    ),
    "corrupted_accuracy": Definition(
        "share of images that the model classifies correctly after the corruption, whatever it made of the clean one",
        "all images",
        "higher",
    ),
    "distortion": Definition(
        "mean root mean square change of a pixel by the corruption, pixels from 0 to 1", "all images", "lower"
    ),
    "failed_checks": Definition(
        "number of signs of masked gradients, or of an attack that is too weak, among the checks that apply",
        "checks that apply",
        "lower",
    ),
    "backdoor_success_rate": Definition(
        "share of images that are given the attacker's label when they carry the trigger (attack success rate, ASR)",
        "images that do not have the attacker's label",
        "lower",
    ),
    "triggered_accuracy": Definition(
        "share of images that are classified correctly although they carry the trigger (robust accuracy, RA)",
        "images that do not have the attacker's label",
        "higher",
    ),
    "cross_trigger_accuracy": Definition(
        "share of images that are classified correctly with the trigger of another image: an attack whose triggers are "
        "to work on one image each wants it high",
        "all images, each with the trigger of the one before it",
        "higher",
    ),
    "clean_model_accuracy": Definition(
        "share of images that a model of the same seed classifies correctly, trained on clean data",
        "all images",
        "higher",
    ),
    "clean_model_success_rate": Definition(
        "the attack's success rate on a model of the same seed, trained on clean data: what it is by chance",
        "as of the success rate",
        "lower",
    ),
    "undefended_accuracy": Definition(
        "share of images that the victim classifies correctly before data or model are cleaned", "all images", "higher"
    ),
    "undefended_success_rate": Definition(
        "the attack's success rate on the victim before data or model are cleaned", "as of the success rate", "lower"
    ),
    "defence_effectiveness": Definition(
        "(1 + max(0, fall of the success rate) - max(0, fall of clean accuracy)) / 2, both by the defence (defence "
        "effectiveness rating, DER): 1 ends the attack for nothing, 0.5 does nothing",
        "all images",
        "higher",
    ),
    "poisons": Definition("number of training images that the attacker changed or added", "training images", "higher"),
    "poisons_removed": Definition("share of poisons that are left out of training (TPR)", "poisons", "higher"),
    "clean_removed": Definition("share of clean images that are left out of training (FPR)", "clean images", "lower"),
    "poison_auc": Definition(
        "area under the ROC curve of the data defence's score: the probability that a poison scores higher than a "
        "clean training image, ties counting half",
        "training images",
        "higher",
    ),
    "anomaly_score": Definition("how suspicious the inspection finds the model", "one model", "higher"),
    "mask_norm": Definition(
        "sum over pixels of the mask that the inspection recovers for the attacker's class", "one model", "lower"
    ),
    "mask_overlap": Definition(
        "pixels that the trigger changes and the recovered mask of the attacker's class covers by more than half, over "
        "pixels of either kind",
        "one model",
        "higher",
    ),
    "accused_classes": Definition("classes that the inspection takes for targets of a backdoor", "classes", "higher"),
    "poison_success_rate": Definition(
        "share of targets that a victim trained on their poisons takes for the intended class", "targets", "lower"
    ),
    "victim_accuracy": Definition(
        "mean over victims of the share of test images classified correctly", "victims", "higher"
    ),
    "accuracy_drop": Definition(
        "accuracy of the model trained on clean data, less that of the victim; interval by bootstrap over images",
        "all images",
        "lower",
    ),
    "subpopulation_accuracy": Definition(
        "share of images of the attacked subpopulation that are classified correctly",
        "images of the subpopulation",
        "higher",
    ),
    "subpopulation_clean_accuracy": Definition(
        "share of images of the attacked subpopulation that the model trained on clean data classifies correctly",
        "images of the subpopulation",
        "higher",
    ),
    "membership_auc": Definition(
        "area under the ROC curve of the attack's score: the probability that a training image scores higher than one "
        "that was not trained on, ties counting half",
        "members and others",
        "lower",
    ),
    "membership_tpr_1": Definition(
        "share of members found at the threshold where at most 1% of the others are taken for members",
        "members",
        "lower",
    ),
    "membership_tpr_01": Definition(
        "share of members found at the threshold where at most 0.1% of the others are taken for members",
        "members",
        "lower",
    ),
    "membership_tpr_001": Definition(
        "share of members found at the threshold where at most 0.01% of the others are taken for members",
        "members",
        "lower",
    ),
    "membership_fpr_1": Definition(
        "share of the others taken for members at the threshold where at most 1% may be: the realised rate",
        "others",
        "lower",
    ),
    "membership_fpr_01": Definition(
        "share of the others taken for members at the threshold where at most 0.1% may be: the realised rate",
        "others",
        "lower",
    ),
    "membership_fpr_001": Definition(
        "share of the others taken for members at the threshold where at most 0.01% may be: the realised rate",
        "others",
        "lower",
    ),
    "membership_advantage": Definition(
        "the largest difference of true and false positive rate over all thresholds", "members and others", "lower"
    ),
    "train_accuracy": Definition(
        "share of its own training images that the victim classifies correctly", "members", "higher"
    ),
    "held_out_accuracy": Definition(
        "share of images that it was not trained on, of the same source, that the victim classifies correctly",
        "others",
        "higher",
    ),
    "attribute_accuracy": Definition(
        "share of training records whose private attribute the attack says rightly", "members", "lower"
    ),
    "imputation_accuracy": Definition(
        "share of training records whose private attribute is the one that complete records of others suggest, without "
        "any model",
        "members",
        "lower",
    ),
    "attribute_advantage": Definition(
        "share of attributes that the attack says rightly, less that of the imputation without a model, record by "
        "record (Newcombe's paired interval)",
        "members",
        "lower",
    ),
    "held_out_attribute_accuracy": Definition(
        "share of records that were not trained on whose private attribute the attack says rightly", "others", "lower"
    ),
    "held_out_imputation_accuracy": Definition(
        "share of records that were not trained on whose private attribute is the one that complete records of others "
        "suggest, without any model",
        "others",
        "lower",
    ),
    "held_out_attribute_advantage": Definition(
        "share of attributes that the attack says rightly, less that of the imputation without a model, record by "
        "record, of records that were not trained on: what the model says of its source and of nobody in it",
        "others",
        "lower",
    ),
    "attribute_memorised": Definition(
        "the advantage over imputation on training records, less that on others: what training on a record gave away",
        "members and others",
        "lower",
    ),
    "untrained_accuracy": Definition(
        "share of records whose private attribute the attack says rightly from an untrained network of the same shape",
        "members and others",
        "lower",
    ),
    "epsilon": Definition(
        "upper bound of the privacy loss of the training at the stated delta, by the accountant",
        "one training",
        "lower",
    ),
    "epsilon_data_dependent": Definition(
        "what the privacy loss came to for the votes that there were: itself private, and no promise, for want of its "
        "smooth sensitivity's noise; the promise is epsilon",
        "one training",
        "lower",
    ),
    "epsilon_data_dependent_told": Definition(
        "what the privacy loss came to for the votes that there were, with noise of its smooth sensitivity, and what "
        "telling it costs: may be told, is as often too low as too high, and is no promise",
        "one training",
        "lower",
    ),
    "epsilon_lower": Definition(
        "lower bound of the privacy loss, with 95% confidence, from how well an audit tells inserted canaries apart",
        "canaries",
        "lower",
    ),
    "epsilon_lower_fdp": Definition(
        "lower bound of the privacy loss, with 95% confidence, from the same guesses by f-DP for the trade-off of "
        "(epsilon, delta)",
        "canaries",
        "lower",
    ),
    "epsilon_gaussian": Definition(
        "lower bound of the privacy loss, with 95% confidence, from the same guesses by f-DP, for trainings whose "
        "trade-off is that of two Gaussians",
        "canaries",
        "lower",
    ),
    "reconstruction_psnr": Definition(
        "mean peak signal-to-noise ratio of the reconstructed images, in dB, at most 100", "all images", "lower"
    ),
    "reconstruction_ssim": Definition(
        "mean structural similarity of the reconstructed images; 1 for equal ones", "all images", "lower"
    ),
    "labels_found": Definition("share of labels that the attack says, or is told, rightly", "all images", "lower"),
    "inversion_accuracy": Definition(
        "share of reconstructions that another model, trained from another seed, takes for their class",
        "reconstructions",
        "lower",
    ),
    "inversion_confidence": Definition(
        "share of reconstructions that the victim itself takes for their class", "reconstructions", "lower"
    ),
    "class_mean_ssim": Definition(
        "mean structural similarity of the reconstructions with the mean training image of their class",
        "reconstructions",
        "lower",
    ),
    "feature_distance": Definition(
        "mean distance, in the features of another model, of the reconstructions to the mean of their class's training "
        "images; 1: as far as its test images are",
        "reconstructions",
        "higher",
    ),
    "nearest_distance": Definition(
        "mean distance, in the features of another model, of the reconstructions to the nearest training image of "
        "their class; 1: as far as its test images are",
        "reconstructions",
        "higher",
    ),
    "guesses_right": Definition(
        "share of the auditor's guesses about canaries that are right", "canaries that are guessed", "lower"
    ),
    "streams_detected": Definition(
        "share of attack streams during which the monitor raises an alarm about one of their accounts",
        "attack streams",
        "higher",
    ),
    "detection_delay": Definition(
        "median over attack streams of the query, dummies included, that raises the first alarm; a stream that ends "
        "without one counts as infinite",
        "attack streams",
        "lower",
    ),
    "queries_before_alarm": Definition(
        "mean number of queries that are of use to the attacker and are answered before the first alarm; all of them "
        "where there is none",
        "attack streams",
        "lower",
    ),
    "unnoticed_success": Definition(
        "share of attack streams that ask about an adversarial image within the budget, and get their answer, before "
        "any alarm",
        "attack streams",
        "lower",
    ),
    "queries_answered": Definition(
        "mean number of queries that are of use to an attacker who learns from refusals and are answered, though none "
        "that raises an alarm is",
        "attack streams",
        "lower",
    ),
    "success_despite_refusals": Definition(
        "share of attack streams that get an answer to an adversarial image within the budget, though no query that "
        "raises an alarm is answered",
        "attack streams",
        "lower",
    ),
    "false_alarms": Definition(
        "alarms an honest account-day: times that a score rises above the threshold; interval of a Poisson rate",
        "honest account-days",
        "lower",
    ),
    "alarmed_days": Definition(
        "share of honest account-days with an alarm that begins or goes on", "honest account-days", "lower"
    ),
    "update_ms": Definition("median time that the monitor takes for a request, in ms", "requests", "lower"),
    "clone_accuracy": Definition("share of images that the stolen copy classifies correctly", "all images", "lower"),
    "agreement": Definition(
        "share of images to which the stolen copy gives the class that the victim gives, right or wrong (fidelity)",
        "all images",
        "lower",
    ),
    "transfer_success_rate": Definition(
        "share of images that the victim classifies correctly, and no longer once they are attacked on the stolen copy "
        "alone (PGD of 20 steps in the Linf ball of the budget)",
        "images that the victim classifies correctly",
        "lower",
    ),
    "queries_spent": Definition("answers of the victim that the thief got", "one theft", "higher"),
    "width_found": Definition(
        "hidden width that the thief reads off the answers: of the last layer's input, or neurons that were found",
        "one theft",
        "lower",
    ),
    "watermark_success": Definition(
        "mean of the evidence that the suspected model gives for the owner: triggers that get their labels, bits of a "
        "message that are read rightly, or what the mark says",
        "questions of the claim",
        "higher",
    ),
    "watermark_before": Definition(
        "the same of the marked model itself, before anything is done to it", "questions of the claim", "higher"
    ),
    "null_mean": Definition(
        "mean, over unmarked models of other people, of the evidence that each gives", "unmarked models", "lower"
    ),
    "null_max": Definition(
        "the largest evidence that an unmarked model of other people gives", "unmarked models", "lower"
    ),
    "p_value": Definition(
        "rank of the suspected model's evidence among that of unmarked models: (1 + those at least as large) / (1 + "
        "all of them)",
        "unmarked models",
        "lower",
    ),
    "verified": Definition(
        "1 where the p-value is at most 5% and the 95% interval of the evidence over the questions lies above the mean "
        "of unmarked models, else 0",
        "one model",
        "higher",
    ),
    "removed": Definition(
        "1 where a claim that the marked model itself meets is no longer verified and the accuracy is less than 5 "
        "points below the marked model's, else 0; unknown where that model does not meet it, or nothing was stolen",
        "one model",
        "lower",
    ),
    "marked_accuracy": Definition(
        "share of images that the marked model classifies correctly before anything is done to it",
        "all images",
        "higher",
    ),
    "unmarked_accuracy": Definition(
        "share of images that a model trained on the owner's images without the mark, from another seed, classifies "
        "correctly",
        "all images",
        "higher",
    ),
    "accuracy_lost": Definition(
        "accuracy of the marked model, less that of what the thief made of it; interval by bootstrap over images",
        "all images",
        "higher",
    ),
    "forged_success": Definition(
        "mean of the evidence that the marked model gives for a thief who made up a claim", "questions", "lower"
    ),
    "forged_p_value": Definition(
        "rank of that evidence among what unmarked models give for the same claim", "unmarked models", "higher"
    ),
    "forged_verified": Definition(
        "1 where the thief's claim on the marked model is verified, else 0", "one model", "lower"
    ),
    "told_family": Definition(
        "share of models that the attacker has not seen whose architecture family he tells from their answers",
        "unseen candidates of every kind",
        "lower",
    ),
    "told_size": Definition(
        "share of models that the attacker has not seen whose image size that it looks at he tells from their answers",
        "unseen candidates of every kind",
        "lower",
    ),
    "told_front": Definition(
        "share of models that the attacker has not seen whose preprocessing he tells from their answers",
        "unseen candidates of every kind",
        "lower",
    ),
    "told_weights": Definition(
        "share of models that the attacker has not seen whose bits of its weights he tells from their answers",
        "unseen candidates of every kind",
        "lower",
    ),
    "forwards_per_image": Definition(
        "mean number of forward evaluations of the model that the attack spent", "attacked images", "higher"
    ),
    "gradients_per_image": Definition(
        "mean number of gradient evaluations of the model that the attack spent", "attacked images", "higher"
    ),
}

HEADINGS = {  # where the key, with blanks, says too little
    "membership_auc": "membership AUC",
    "membership_tpr_1": "TPR at 1% FPR",
    "membership_tpr_01": "TPR at 0.1% FPR",
    "membership_tpr_001": "TPR at 0.01% FPR",
    "membership_fpr_1": "FPR there was, of 1%",
    "membership_fpr_01": "FPR there was, of 0.1%",
    "membership_fpr_001": "FPR there was, of 0.01%",
    "backdoor_success_rate": "backdoor success rate (ASR)",
    "triggered_accuracy": "triggered accuracy (RA)",
    "defence_effectiveness": "defence effectiveness (DER)",
    "poisons_removed": "poisons removed (TPR)",
    "clean_removed": "clean images removed (FPR)",
    "poison_auc": "AUC of the data defence",
    "detection_auc": "AUC of the detector",
    "epsilon": "epsilon promised",
    "epsilon_data_dependent": "epsilon of these votes (private)",
    "epsilon_lower": "epsilon audited",
    "epsilon_lower_fdp": "epsilon audited, f-DP",
    "epsilon_gaussian": "epsilon audited, if Gaussian",
    "reconstruction_psnr": "PSNR in dB",
    "reconstruction_ssim": "SSIM",
    "class_mean_ssim": "SSIM with the class's mean",
    "feature_distance": "distance to the class's mean",
    "nearest_distance": "distance to the nearest image",
    "update_ms": "ms a request",
    "null_mean": "unmarked models, mean",
    "null_max": "unmarked models, largest",
    "p_value": "p-value",
}


def heading(metric: str) -> str:
    """What people read in the place of a metric's key in records."""
    return HEADINGS.get(metric) or metric.replace("_", " ")
