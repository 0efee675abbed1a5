"""What people do with the page, and the tests that do the same in a real browser."""

from __future__ import annotations

#: In the order in which somebody new comes across them; each with its tests.
JOURNEYS: dict[str, tuple[str, ...]] = {
    "Open the printed address: the models that serve are READY at once": (
        "test_the_printed_address_shows_the_models_that_serve",
        "test_a_browser_is_led_to_the_page_and_sees_changes_without_reloading",
    ),
    "Launch a model with the keyboard alone, and see it load": (
        "test_a_model_is_launched_with_the_keyboard_alone_and_becomes_ready",
    ),
    "Mistype a name, and be told the nearest one": (
        "test_a_name_with_a_typing_error_is_answered_with_the_nearest_one",
    ),
    "Take a smaller launch where the plan does not fit": (
        "test_a_plan_that_does_not_fit_offers_what_does_and_a_click_makes_it_fit",
        "test_a_launch_that_cannot_be_is_refused_in_the_words_of_the_server",
    ),
    "See why a wanted model has no place, node by node": (
        "test_a_model_that_has_no_place_any_more_says_so_for_each_node",
    ),
    "Load the page again in the middle of a launch": ("test_a_page_that_is_loaded_again_shows_how_far_a_launch_is",),
    "A worker is killed: its row says so, and requests go on": (
        "test_a_worker_that_is_killed_is_seen_to_be_lost_and_back_while_requests_go_on",
    ),
    "The supervisor is killed: a banner says so, and models answer": (
        "test_while_the_control_plane_restarts_the_page_says_so_and_models_answer",
    ),
    "The server is killed: what was known stays, and nothing that was typed is lost": (
        "test_a_server_that_is_killed_is_lost_and_found_again_with_all_that_was_typed",
        "test_a_server_that_ended_is_said_to_be_gone_and_found_again",
    ),
    "Embed sentences: the matrix, and the nearest pair": (
        "test_texts_are_embedded_and_ranked",
        "test_two_embedding_models_are_compared_text_by_text",
    ),
    "Rank with two models beside each other": ("test_two_rerankers_are_compared_beside_the_order_that_was_given",),
    "Draw: previews come, and it stops within a step": ("test_a_picture_comes_about_step_by_step_and_can_be_stopped",),
    "Close the tab of a picture, and find it later": ("test_a_picture_that_is_begun_comes_though_its_tab_is_closed",),
    "Paint a mask, take it back, and redraw what is white": (
        "test_a_mask_is_painted_taken_back_and_inverted_and_only_what_is_white_is_drawn_anew",
        "test_a_mask_is_drawn_with_a_lasso_softened_saved_and_loaded_again",
        "test_a_mask_is_painted_with_keys_alone",
    ),
    "Make a picture again from its receipt": ("test_a_picture_is_made_again_from_its_receipt_and_is_equal_or_not",),
    "Drop a PDF: pages in order, boxes at the words, a searchable PDF": (
        "test_the_pages_of_a_pdf_come_in_order_with_boxes_in_their_places_and_as_a_searchable_pdf",
        "test_the_lines_of_a_page_and_their_places_light_each_other",
    ),
    "Copy the code of a request and run it": ("test_each_snippet_runs_as_it_is_shown_and_answers_as_the_page_does",),
    "Log in with a key that may not launch, and be out when it is revoked": (
        "test_where_keys_are_asked_for_one_logs_in_and_is_out_when_the_key_is_revoked",
    ),
    "Terminate by mistake; delete weights that are used": (
        "test_a_terminated_model_comes_back_as_it_was_if_that_was_a_mistake",
        "test_weights_are_listed_with_who_uses_them_and_deleted_unless_they_are_used",
    ),
    "Follow ten thousand lines of a log, search them, and pause": (
        "test_ten_thousand_lines_are_followed_searched_and_paused_and_stay_text",
    ),
}
